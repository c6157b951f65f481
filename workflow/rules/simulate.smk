# The neuron-astrocyte network reads what the transformer reads.


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
    resources:
        device=MACHINE["device"],  # not a param: a change of device reruns nothing
    params:
        settings=simulate_settings,
        code=code("tripartite/stages/simulate"),
    message:
        "Run the neuron-astrocyte network of {wildcards.experiment}: write phase, then read phase."
    shell:
        command("simulate", "--device {resources.device}")
