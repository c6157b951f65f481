# Measured errors of the network beside the closed form, for every head.


rule fit:
    input:
        stage=source("stage"),
        data=lambda wildcards: shared("qkv", "attention")(wildcards)
        + [f"<results>/{wildcards.study}/{wildcards.experiment}/states.nc"],
    output:
        fit="<results>/{study}/{experiment}/fit.nc",
    log:
        "<logs>/{study}/{experiment}/fit.log",
    conda:
        ENVIRONMENT
    params:
        settings=fit_settings,
        code=code("tripartite/stages/fit"),
    message:
        "Fit the network of {wildcards.experiment} to standard attention."
    shell:
        command("fit")
