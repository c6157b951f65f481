# The pipeline: the neuron-astrocyte network reads what the transformer reads, and is fitted to it.

SHARDS = MACHINE["shards"]  # jobs that share the heads of an experiment; one file comes of them
STATES, FIT = declarations.files()["states"], declarations.files()["fit"]


rule simulate:
    input:
        data=HERE.simulated,
    output:
        states=update(snakefile.output(STATES)),
    log:
        "<logs>/{study}/{experiment}/simulate.log",
    conda:
        ENVIRONMENT
    threads: threads(STATES)
    resources:
        device=device(STATES)["device"],
        gpu=device(STATES)["gpu"] if SHARDS == 1 else 0,
        mem_mb=HERE.memory(STATES),
        runtime=snakefile.doubling(120),
    params:
        stage=HERE.script("stage"),
        settings=HERE.settings("states"),
        code=plan.stage_code("states"),
        shards=HERE.gathered,
    message:
        STATES.does.format(experiment="{wildcards.experiment}")
    shell:
        command("simulate", "{params.shards}")


if SHARDS > 1:

    rule simulate_shard:
        input:
            data=HERE.reads("qkv", "attention"),
        output:
            states=temp("<results>/{study}/{experiment}/shards/{of}/{part}/states.nc"),
        log:
            "<logs>/{study}/{experiment}/simulate-{part}-of-{of}.log",
        wildcard_constraints:
            part=r"\d+",
            of=r"\d+",
        conda:
            ENVIRONMENT
        resources:
            device=device(STATES)["device"],
            gpu=device(STATES)["gpu"],
            mem_mb=HERE.memory(STATES),
            runtime=snakefile.doubling(120),
        params:
            stage=HERE.script("stage"),
            settings=HERE.settings("states"),
            code=plan.stage_code("states"),
        message:
            "Run shard {wildcards.part} of {wildcards.of} of the network of {wildcards.experiment}."
        shell:
            command("simulate", "--shard {wildcards.part}/{wildcards.of}")

    rule gather:
        input:
            data=lambda wildcards: expand(
                "<results>/{study}/{experiment}/shards/{of}/{part}/states.nc",
                part=range(1, int(wildcards.of) + 1),
                **wildcards,
            ),
        output:
            states=temp("<results>/{study}/{experiment}/shards/{of}/states.nc"),
        log:
            "<logs>/{study}/{experiment}/gather-{of}.log",
        wildcard_constraints:
            of=r"\d+",
        conda:
            ENVIRONMENT
        resources:
            device="cpu",
        params:
            stage=HERE.script("stage"),
            settings=HERE.settings("states"),
            code=plan.code("stage", "tripartite/kinds/network/gather"),
        message:
            "Put the shards of {wildcards.experiment} together."
        shell:
            command("gather", "--shards {input.data:q}")


rule fit:
    input:
        data=HERE.reads(*FIT.reads),
    output:
        fit=snakefile.output(FIT),
    log:
        "<logs>/{study}/{experiment}/fit.log",
    conda:
        ENVIRONMENT
    resources:
        device="cpu",
        mem_mb=HERE.memory(FIT),
        runtime=snakefile.doubling(120),
    params:
        stage=HERE.script("stage"),
        settings=HERE.settings("fit"),
        code=plan.stage_code("fit"),
    message:
        FIT.does.format(experiment="{wildcards.experiment}")
    shell:
        command("fit")
