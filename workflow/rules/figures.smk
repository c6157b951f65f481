# Figures draw what the fits hold; each is a module in the folder of its kind. Those that write a page beside their
# pictures have a rule of their own.

for also in sorted({figure.also for figure in declarations.figures().values()}):

    rule:
        name:
            "_".join(["draw", *also])
        input:
            data=HERE.drawn,
        output:
            **{
                suffix: report(
                    f"<results>/{{study}}/figures/{{figure}}.{suffix}",
                    caption="../report/figure.rst",
                    category=lambda wildcards: declarations.category(wildcards.figure),
                    labels=HERE.labels(suffix),
                )
                for suffix in ("svg", "csv")
            },
            **{
                # no browser opens a page of this size inside of a report
                suffix: f"<results>/{{study}}/figures/{{figure}}.{suffix}"
                for suffix in ("pdf", "png", "txt", *also)
            },
        log:
            "<logs>/{study}/figures/{figure}.log",
        wildcard_constraints:
            figure=snakefile.figure_names(also),
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


rule gallery:
    input:
        figures=HERE.figure_files(),
        claims=rules.check.input,
    output:
        page=f"<results>/{STUDY}/index.html",
    log:
        f"<logs>/{STUDY}/gallery.log",
    localrule: True  # takes a second
    conda:
        ENVIRONMENT
    params:
        script=HERE.script("share"),
        settings=HERE.figure_settings,
        code=plan.code("share"),
    message:
        f"Write the page with all figures of the study {STUDY}."
    shell:
        f"{PYTHON} {{params.script:q}} gallery {HERE.options()} --output {{output.page:q}} 2>&1 | tee {{log:q}}"
