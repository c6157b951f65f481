# A finished study goes to another lab as one archive, and another lab's is set beside our own.



def shared_study():
    "The options by which share.py finds the chosen study and its results."
    return f"--study {STUDY} --results {shlex.quote(f'{RESULTS}/{STUDY}')}"


def packed(wildcards=None, input=None):
    "What travels of config/: what is shipped, the inputs that the study reads, and last the study."
    shipped = [
        file
        for path, file in OWN_FILES.items()
        if path.startswith(("config/studies/", "config/inputs/"))
    ]
    return [str(path) for path in HERE.packed(shipped)]


def packed_content(wildcards):
    "What tells one archive from another beside the results: all else that is packed."
    there, absent = plan.own_files(CHOSEN)
    files = [*map(Path, packed()), *OWN_FILES.values(), *there]
    return [plan.digest(file) for file in files] + absent + [MACHINE["memory_gb"]]


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
        f"{PYTHON} {{params.script:q}} verify {shared_study()} 2>&1 | tee {{log:q}}"


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
        settings=packed,
        machine=lambda wildcards, input: plan.text(MACHINE),
        code=plan.code("share"),
        content=packed_content,
    message:
        f"Check the study {STUDY} and pack it, with all that made it, into one archive."
    shell:
        f"{PYTHON} {{params.script:q}} export {shared_study()} --settings {{params.settings:q}} "
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
        f"{PYTHON} {{params.script:q}} compare {shared_study()} --other {{params.other:q}} "
        "--output {params.folder:q} 2>&1 | tee {log:q}"
