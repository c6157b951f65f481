# The neuron-astrocyte network reads what the transformer reads.

# One job per GPU, with no flag; the jobs find their own card. Without a GPU there is nothing to count.
# On a cluster, whose GPUs are not seen from here, cuda asks for one per job and auto for none.
GPUS = study_module.cuda_devices() if MACHINE["device"] != "cpu" else 0
if CLUSTER:
    GPUS = int(MACHINE["device"] == "cuda")
elif GPUS and workflow.is_main_process and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", GPUS)


rule simulate:
    input:
        data=simulated,
    output:
        states=update("<results>/{study}/{experiment}/states.nc"),
    log:
        "<logs>/{study}/{experiment}/simulate.log",
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        device=MACHINE["device"],  # not a param: a change of device reruns nothing
        gpu=1 if GPUS and SHARDS == 1 else 0,
        mem_mb=doubling(4000),
        runtime=doubling(120),
    params:
        stage=script("stage"),
        settings=settings("states"),
        code=plan.stage_code("states"),
        shards=gathered,
    message:
        "Run the neuron-astrocyte network of {wildcards.experiment}: write phase, then read phase."
    shell:
        command("simulate", "{params.shards} --device {resources.device} --workers {threads}")


if SHARDS > 1:

    rule simulate_shard:
        input:
            data=shared("qkv", "attention"),
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
            device=MACHINE["device"],
            gpu=1 if GPUS else 0,
            mem_mb=doubling(4000),
            runtime=doubling(120),
        params:
            stage=script("stage"),
            settings=settings("states"),
            code=plan.stage_code("states"),
        message:
            "Run shard {wildcards.part} of {wildcards.of} of the network of {wildcards.experiment}."
        shell:
            command(
                "simulate",
                "--device {resources.device} --workers {threads} --shard {wildcards.part}/{wildcards.of}",
            )

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
        params:
            stage=script("stage"),
            settings=settings("states"),
            code=plan.code("stage", "tripartite/stages/gather"),
        message:
            "Put the shards of {wildcards.experiment} together."
        shell:
            command("gather", "--shards {input.data:q}")
