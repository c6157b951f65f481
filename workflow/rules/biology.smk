# The biology of the network: continuous time, calcium, lesions and noise, forgetting, imaging.


rule integrate:
    input:
        stage=source("stage"),
        data=shared("qkv", "attention"),
    output:
        traces="<results>/{study}/{experiment}/traces.nc",
    log:
        "<logs>/{study}/{experiment}/integrate.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=doubling(4000),
        runtime=doubling(120),
    params:
        settings=section_settings,
        code=code("tripartite/stages/integrate"),
    message:
        "Run the tripartite synapse of {wildcards.experiment} in continuous time: write phase, then read phase."
    shell:
        command("integrate")


rule converge:
    input:
        stage=source("stage"),
        data=shared("qkv", "attention"),
    output:
        convergence="<results>/{study}/{experiment}/convergence.nc",
    log:
        "<logs>/{study}/{experiment}/converge.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=doubling(4000),
        runtime=doubling(120),
    params:
        settings=section_settings,
        code=code("tripartite/stages/converge"),
    message:
        "Let the time constants of {wildcards.experiment} shrink, and compare with the algebra."
    shell:
        command("converge")


rule settle:
    input:
        stage=source("stage"),
        data=shared("qkv", "attention"),
    output:
        settling="<results>/{study}/{experiment}/settling.nc",
    log:
        "<logs>/{study}/{experiment}/settle.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=doubling(4000),
        runtime=doubling(120),
    params:
        settings=section_settings,
        code=code("tripartite/stages/settle"),
    message:
        "Find how fast calcium must be for {wildcards.experiment}."
    shell:
        command("settle")


rule respond:
    input:
        stage=source("stage"),
        data=shared("qkv", "attention"),
    output:
        readout="<results>/{study}/{experiment}/readout.nc",
    log:
        "<logs>/{study}/{experiment}/respond.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=doubling(4000),
        runtime=doubling(120),
    params:
        settings=section_settings,
        code=code("tripartite/stages/respond"),
    message:
        "Let calcium models carry the normaliser of {wildcards.experiment}."
    shell:
        command("respond")


rule couple:
    input:
        stage=source("stage"),
        data=shared("qkv", "attention"),
    output:
        coupling="<results>/{study}/{experiment}/coupling.nc",
    log:
        "<logs>/{study}/{experiment}/couple.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=doubling(4000),
        runtime=doubling(120),
    params:
        settings=section_settings,
        code=code("tripartite/stages/couple"),
    message:
        "Couple the astrocyte processes of {wildcards.experiment} by gap junctions."
    shell:
        command("couple")


rule perturb:
    input:
        stage=source("stage"),
        data=shared("qkv", "attention"),
    output:
        perturbations="<results>/{study}/{experiment}/perturbations.nc",
    log:
        "<logs>/{study}/{experiment}/perturb.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=doubling(4000),
        runtime=doubling(120),
    params:
        settings=section_settings,
        code=code("tripartite/stages/perturb"),
    message:
        "Lesion and disturb the networks of {wildcards.experiment}."
    shell:
        command("perturb")


rule ablate:
    input:
        stage=source("stage"),
        data=raw_sources,
    output:
        ablation="<results>/{study}/{experiment}/ablation.nc",
    log:
        "<logs>/{study}/{experiment}/ablate.log",
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        mem_mb=doubling(4000),
        runtime=doubling(120),
    params:
        settings=ablate_settings,
        code=code("tripartite/stages/ablate"),
    message:
        "Take the astrocytes out of the whole transformer of {wildcards.experiment}."
    shell:
        command("ablate", "--workers {threads}")


rule retain:
    input:
        stage=source("stage"),
        data=shared("qkv", "attention"),
    output:
        retention="<results>/{study}/{experiment}/retention.nc",
    log:
        "<logs>/{study}/{experiment}/retain.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=doubling(4000),
        runtime=doubling(120),
    params:
        settings=section_settings,
        code=code("tripartite/stages/retain"),
    message:
        "Let the synapses of {wildcards.experiment} forget, and fit what they retain."
    shell:
        command("retain")


rule image:
    input:
        stage=source("stage"),
        data=shared("qkv", "attention"),
    output:
        imaging="<results>/{study}/{experiment}/imaging.nc",
    log:
        "<logs>/{study}/{experiment}/image.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=doubling(4000),
        runtime=doubling(120),
    params:
        settings=section_settings,
        code=code("tripartite/stages/image"),
    message:
        "Image the astrocyte of {wildcards.experiment}, and tell its normaliser from rivals."
    shell:
        command("image")
