# The biology of the network: continuous time, calcium, lesions and noise, forgetting, imaging.


rule integrate:
    input:
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
        stage=script("stage"),
        settings=settings("traces"),
        code=plan.stage_code("traces"),
    message:
        "Run the tripartite synapse of {wildcards.experiment} in continuous time: write phase, then read phase."
    shell:
        command("integrate")


rule converge:
    input:
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
        stage=script("stage"),
        settings=settings("convergence"),
        code=plan.stage_code("convergence"),
    message:
        "Let the time constants of {wildcards.experiment} shrink, and compare with the algebra."
    shell:
        command("converge")


rule settle:
    input:
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
        stage=script("stage"),
        settings=settings("settling"),
        code=plan.stage_code("settling"),
    message:
        "Find how fast calcium must be for {wildcards.experiment}."
    shell:
        command("settle")


rule respond:
    input:
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
        stage=script("stage"),
        settings=settings("readout"),
        code=plan.stage_code("readout"),
    message:
        "Let calcium models carry the normaliser of {wildcards.experiment}."
    shell:
        command("respond")


rule couple:
    input:
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
        stage=script("stage"),
        settings=settings("coupling"),
        code=plan.stage_code("coupling"),
    message:
        "Couple the astrocyte processes of {wildcards.experiment} by gap junctions."
    shell:
        command("couple")


rule perturb:
    input:
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
        stage=script("stage"),
        settings=settings("perturbations"),
        code=plan.stage_code("perturbations"),
    message:
        "Lesion and disturb the networks of {wildcards.experiment}."
    shell:
        command("perturb")


rule ablate:
    input:
        data=wheels,
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
        stage=script("stage"),
        raw=raw_files,
        settings=settings("ablation"),
        code=plan.stage_code("ablation"),
    message:
        "Take the astrocytes out of the whole transformer of {wildcards.experiment}."
    shell:
        command("ablate", "{params.raw:q} --workers {threads}")


rule retain:
    input:
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
        stage=script("stage"),
        settings=settings("retention"),
        code=plan.stage_code("retention"),
    message:
        "Let the synapses of {wildcards.experiment} forget, and fit what they retain."
    shell:
        command("retain")


rule image:
    input:
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
        stage=script("stage"),
        settings=settings("imaging"),
        code=plan.stage_code("imaging"),
    message:
        "Image the astrocyte of {wildcards.experiment}, and tell its normaliser from rivals."
    shell:
        command("image")
