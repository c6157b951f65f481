# Figures draw what the fits hold; each is one file of tripartite/figures.


rule draw:
    input:
        data=drawn,
    output:
        svg=report(
            "<results>/{study}/figures/{figure}.svg",
            caption="../report/figure.rst",
            category=lambda wildcards: study_module.KINDS[wildcards.figure],
            labels={"figure": "{figure}", "study": "{study}"},
        ),
        pdf="<results>/{study}/figures/{figure}.pdf",
        png="<results>/{study}/figures/{figure}.png",
    log:
        "<logs>/{study}/figures/{figure}.log",
    conda:
        ENVIRONMENT
    params:
        stage=script("stage"),
        settings="{}",
        code=lambda wildcards: plan.figure_code(wildcards.figure),
    message:
        "Draw {wildcards.figure}."
    shell:
        command("draw")
