# The neuron-astrocyte network reads what the transformer reads.

# One job per GPU, with no flag; the jobs find their own card. Without a GPU there is nothing to count.
GPUS = study_module.cuda_devices() if MACHINE["device"] != "cpu" else 0
if GPUS and workflow.is_main_process and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", GPUS)


rule simulate:
    input:
        stage=source("stage"),
        data=shared("qkv", "attention"),
    output:
        states="<results>/{study}/{experiment}/states.nc",
    log:
        "<logs>/{study}/{experiment}/simulate.log",
    conda:
        ENVIRONMENT
    threads: max(1, workflow.cores // len(study(STUDY)["experiments"]))
    resources:
        device=MACHINE["device"],  # not a param: a change of device reruns nothing
        gpu=1 if GPUS else 0,
    params:
        settings=simulate_settings,
        code=code("tripartite/stages/simulate"),
    message:
        "Run the neuron-astrocyte network of {wildcards.experiment}: write phase, then read phase."
    shell:
        command("simulate", "--device {resources.device} --workers {threads}")
