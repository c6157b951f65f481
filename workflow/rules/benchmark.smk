# How fast the network is computed, beside its peers in the same run. No part of any study.

LOCK = OWN_FILES["envs/benchmark.txt"]
PRETRAINED = {"model": "minilm", "inputs": ["lincoln", "darwin", "dickens", "faraday"]}


rule peers:
    output:
        folder=directory("<resources>/peers"),
    log:
        "<logs>/benchmark/peers.log",
    localrule: True  # compute nodes may have no network
    conda:
        ENVIRONMENT
    params:
        lock=lambda wildcards, input: str(LOCK),
        digest=plan.digest(LOCK),
    message:
        "Install the other implementations, pinned and checked, in a folder of their own."
    shell:
        f"{PYTHON} -m pip install --quiet --no-deps --only-binary=:all: --require-hashes "
        "--target {output.folder:q} -r {params.lock:q} 2>&1 | tee {log:q}"


rule measure:
    input:
        data=[],
        peers="<resources>/peers",
    output:
        speed="<results>/benchmark/speed.nc",
    log:
        "<logs>/benchmark/measure.log",
    conda:
        ENVIRONMENT
    threads: 1 if CLUSTER else CORES or 1  # nothing else may run beside it
    resources:
        device=MACHINE["device"],
        gpu=1 if GPUS else 0,
        mem_mb=snakefile.doubling(8000),
        runtime=snakefile.doubling(60),
    params:
        stage=HERE.script("stage"),
        settings=plan.text({"seed": 2023}),
        code=plan.stage_code("speed"),
    message:
        "Time the network and its peers."
    shell:
        command("measure", "--peers {input.peers:q}")


rule compete:
    input:
        data=[ancient(f"<resources>/wheels/{name}.whl") for name in plan.wheels(PRETRAINED)],
        peers="<resources>/peers",
    output:
        accuracy="<results>/benchmark/accuracy.nc",
    log:
        "<logs>/benchmark/compete.log",
    conda:
        ENVIRONMENT
    threads: 1 if CLUSTER else CORES or 1  # nothing else may run beside it
    resources:
        device="cpu",
        mem_mb=snakefile.doubling(4000),
        runtime=snakefile.doubling(30),
    params:
        stage=HERE.script("stage"),
        raw=lambda wildcards: [str(path) for path in plan.texts(PRETRAINED, Path("."))],
        settings=lambda wildcards: plan.text(plan.benchmark_settings(PRETRAINED, Path("."))),
        code=plan.stage_code("accuracy"),
    message:
        "Time the network and its peers on heads of a pretrained model, and take their errors."
    shell:
        command("compete", "{params.raw:q} --peers {input.peers:q}")


rule draw_accuracy:
    input:
        data="<results>/benchmark/accuracy.nc",
    output:
        svg="<results>/benchmark/error_against_time.svg",
        pdf="<results>/benchmark/error_against_time.pdf",
        png="<results>/benchmark/error_against_time.png",
        table="<results>/benchmark/error_against_time.md",
    log:
        "<logs>/benchmark/draw_accuracy.log",
    conda:
        ENVIRONMENT
    resources:
        device="cpu",
    params:
        stage=HERE.script("stage"),
        settings="{}",
        code=plan.figure_code("error_against_time"),
    message:
        "Draw error against time."
    shell:
        command("draw")


rule benchmark:
    input:
        data="<results>/benchmark/speed.nc",
        others=rules.draw_accuracy.output,
    output:
        svg="<results>/benchmark/speed.svg",
        pdf="<results>/benchmark/speed.pdf",
        png="<results>/benchmark/speed.png",
        table="<results>/benchmark/speed.md",
    log:
        "<logs>/benchmark/draw.log",
    conda:
        ENVIRONMENT
    resources:
        device="cpu",
    params:
        stage=HERE.script("stage"),
        settings="{}",
        code=plan.figure_code("speed"),
    message:
        "Draw speed, and set what was measured beside the goals."
    shell:
        command("draw")
