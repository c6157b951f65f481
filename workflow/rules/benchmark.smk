# How fast the network is computed, beside its peers in the same run. No part of any study.

LOCK = OWN_FILES["envs/benchmark.txt"]


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


rule benchmark:
    input:
        data="<results>/benchmark/speed.nc",
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
