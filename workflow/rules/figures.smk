# Figures draw what the fits hold; each is one file of tripartite/figures.


rule draw:
    input:
        stage=source("stage"),
        data=fits,
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
        settings="{}",
        code=lambda wildcards: code(f"tripartite/figures/{wildcards.figure}"),
    message:
        "Draw {wildcards.figure}."
    shell:
        command("draw")
