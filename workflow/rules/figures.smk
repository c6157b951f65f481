# Figures draw what the fits hold; each is a module in the folder of its kind.


rule draw:
    input:
        data=HERE.drawn,
    output:
        svg=report(
            "<results>/{study}/figures/{figure}.svg",
            caption="../report/figure.rst",
            category=lambda wildcards: declarations.category(wildcards.figure),
            labels={"figure": "{figure}", "study": "{study}"},
        ),
        pdf="<results>/{study}/figures/{figure}.pdf",
        png="<results>/{study}/figures/{figure}.png",
    log:
        "<logs>/{study}/figures/{figure}.log",
    conda:
        ENVIRONMENT
    resources:
        device="cpu",
    params:
        stage=HERE.script("stage"),
        caption=HERE.caption,
        settings="{}",
        code=lambda wildcards: plan.figure_code(wildcards.figure),
    message:
        "Draw {wildcards.figure}."
    shell:
        command("draw")
