# A finished study goes to another lab as one archive, and another lab's is set beside our own.


rule verify:
    log:
        f"<logs>/{STUDY}/verify.log",
    localrule: True  # says what it found where it was asked
    conda:
        ENVIRONMENT
    params:
        script=HERE.script("share"),
    message:
        f"Hold the files of the study {STUDY} against what it asks for, and against one another."
    shell:
        f"{PYTHON} {{params.script:q}} verify {HERE.options()} 2>&1 | tee {{log:q}}"


rule export:
    input:
        results=HERE.study_files(),
    output:
        archive=f"<results>/export/{STUDY}.zip",
    log:
        f"<logs>/{STUDY}/export.log",
    conda:
        ENVIRONMENT
    params:
        script=HERE.script("share"),
        settings=HERE.packed,
        machine=lambda wildcards, input: plan.text(MACHINE),
        code=plan.code("share"),
        content=HERE.packed_content,
    message:
        f"Check the study {STUDY} and pack it, with all that made it, into one archive."
    shell:
        f"{PYTHON} {{params.script:q}} export {HERE.options()} --settings {{params.settings:q}} "
        "--machine {params.machine:q} --output {output.archive:q} 2>&1 | tee {log:q}"


rule compare:  # no input: an archive that was exported here is compared as it is
    log:
        f"<logs>/{STUDY}/compare.log",
    localrule: True  # says what it found where it was asked
    conda:
        ENVIRONMENT
    params:
        script=HERE.script("share"),
        other=HERE.other_results,
        folder=f"{RESULTS}/comparison",
    message:
        f"Compare the study {STUDY} with the results of another lab."
    shell:
        f"{PYTHON} {{params.script:q}} compare {HERE.options()} --other {{params.other:q}} "
        "--output {params.folder:q} 2>&1 | tee {log:q}"
