# The network beside the closed forms, and other fits to standard attention, for every head.


rule fit:
    input:
        data=lambda wildcards: shared("qkv", "attention")(wildcards)
        + [f"<results>/{wildcards.study}/{wildcards.experiment}/states.nc"],
    output:
        fit="<results>/{study}/{experiment}/fit.nc",
    log:
        "<logs>/{study}/{experiment}/fit.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=doubling(4000),
        runtime=doubling(120),
    params:
        stage=script("stage"),
        settings=settings("fit"),
        code=plan.stage_code("fit"),
    message:
        "Fit the network of {wildcards.experiment} to standard attention."
    shell:
        command("fit")


rule calibrate:
    input:
        data=shared("qkv", "attention"),
    output:
        symmetries="<results>/{study}/{experiment}/symmetries.nc",
    log:
        "<logs>/{study}/{experiment}/calibrate.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=doubling(4000),
        runtime=doubling(120),
    params:
        stage=script("stage"),
        settings=settings("symmetries"),
        code=plan.stage_code("symmetries"),
    message:
        "Fit symmetries and weights of {wildcards.experiment} to some inputs, test them on others."
    shell:
        command("calibrate")


rule compare_maps:
    input:
        data=shared("qkv", "attention"),
    output:
        comparison="<results>/{study}/{experiment}/comparison.nc",
    log:
        "<logs>/{study}/{experiment}/compare.log",
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        device=MACHINE["device"],
        gpu=1 if GPUS else 0,
        mem_mb=doubling(4000),
        runtime=doubling(120),
    params:
        stage=script("stage"),
        settings=settings("comparison"),
        code=plan.stage_code("comparison"),
    message:
        "Compare the feature maps of {wildcards.experiment}."
    shell:
        command("compare", "--device {resources.device} --workers {threads}")


rule learn:
    input:
        data=shared("qkv", "attention"),
    output:
        learned=update("<results>/{study}/{experiment}/learned.nc"),
    log:
        "<logs>/{study}/{experiment}/learn.log",
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        device=MACHINE["device"],
        gpu=1 if GPUS else 0,
        mem_mb=doubling(4000),
        runtime=doubling(120),
    params:
        stage=script("stage"),
        settings=settings("learned"),
        code=plan.stage_code("learned"),
    message:
        "Train the hidden layers of {wildcards.experiment} to attention."
    shell:
        command("learn", "--device {resources.device} --workers {threads}")


rule explain:
    input:
        data=shared("qkv", "attention"),
    output:
        explanation="<results>/{study}/{experiment}/explanation.nc",
    log:
        "<logs>/{study}/{experiment}/explain.log",
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        device=MACHINE["device"],
        gpu=1 if GPUS else 0,
        mem_mb=doubling(4000),
        runtime=doubling(120),
    params:
        stage=script("stage"),
        settings=settings("explanation"),
        code=plan.stage_code("explanation"),
    message:
        "Find the standard attention that explains {wildcards.experiment} best."
    shell:
        command("explain", "--device {resources.device} --workers {threads}")
