# What a study claims is scored by its own results: a verdict for each claim, out of the numbers that it rests on.

CLAIMS = declarations.files()["claims"]


rule score:
    input:
        data=HERE.claimed,
    output:
        claims=f"<results>/{{study}}/{plan.CLAIMS}",
    log:
        "<logs>/{study}/claims/score.log",
    conda:
        ENVIRONMENT
    resources:
        device="cpu",
    params:
        stage=HERE.script("stage"),
        settings=HERE.claims_settings,
        code=plan.stage_code("claims"),
    message:
        CLAIMS.does
    shell:
        command("score")


rule check:
    input:
        claims=f"<results>/{STUDY}/{plan.CLAIMS}" if CHOSEN["claims"] else [],
    log:
        f"<logs>/{STUDY}/check.log",
    localrule: True  # says what it found where it was asked
    conda:
        ENVIRONMENT
    params:
        script=HERE.script("share"),
    message:
        f"Hold the verdicts of the study {STUDY} against those that it expects."
    shell:
        f"{PYTHON} {{params.script:q}} check {HERE.options()} 2>&1 | tee {{log:q}}"
