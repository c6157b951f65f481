# The neuron-astrocyte network reads what the transformer reads.

# One job per GPU, with no flag; the jobs find their own card. Without a GPU there is nothing to count.
# On a cluster, whose GPUs are not seen from here, cuda asks for one per job and auto for none.
GPUS = study_module.cuda_devices() if MACHINE["device"] != "cpu" else 0
if CLUSTER:
    GPUS = int(MACHINE["device"] == "cuda")
elif GPUS and workflow.is_main_process and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", GPUS)


SHARDS = MACHINE["shards"]  # jobs that share the heads of an experiment; one file comes of them


if SHARDS == 1:

    rule simulate:
        input:
            stage=source("stage"),
            data=shared("qkv", "attention"),
        output:
            states=update("<results>/{study}/{experiment}/states.nc"),
        log:
            "<logs>/{study}/{experiment}/simulate.log",
        conda:
            ENVIRONMENT
        threads: THREADS
        resources:
            device=MACHINE["device"],  # not a param: a change of device reruns nothing
            gpu=1 if GPUS else 0,
            mem_mb=doubling(4000),
            runtime=doubling(120),
        params:
            settings=simulate_settings,
            code=code("tripartite/stages/simulate"),
        message:
            "Run the neuron-astrocyte network of {wildcards.experiment}: write phase, then read phase."
        shell:
            command("simulate", "--device {resources.device} --workers {threads}")

else:

    rule simulate:
        input:
            stage=source("stage"),
            data=shared("qkv", "attention"),
        output:
            states=temp("<results>/{study}/{experiment}/shards/{part}/states.nc"),
        log:
            "<logs>/{study}/{experiment}/simulate-{part}.log",
        wildcard_constraints:
            part=r"\d+",
        conda:
            ENVIRONMENT
        resources:
            device=MACHINE["device"],
            gpu=1 if GPUS else 0,
            mem_mb=doubling(4000),
            runtime=doubling(120),
        params:
            settings=simulate_settings,
            code=code("tripartite/stages/simulate"),
            shards=SHARDS,
        message:
            "Run shard {wildcards.part} of the network of {wildcards.experiment}."
        shell:
            command(
                "simulate",
                "--device {resources.device} --workers {threads} --shard {wildcards.part}/{params.shards}",
            )

    rule gather:
        input:
            stage=source("stage"),
            data=expand(
                "<results>/{{study}}/{{experiment}}/shards/{part}/states.nc",
                part=range(1, SHARDS + 1),
            ),
        output:
            states="<results>/{study}/{experiment}/states.nc",
        log:
            "<logs>/{study}/{experiment}/gather.log",
        conda:
            ENVIRONMENT
        params:
            settings=simulate_settings,
            code=code("tripartite/stages/gather"),
        message:
            "Put the shards of {wildcards.experiment} together."
        shell:
            command("gather")
