# A finished study goes to another lab as one archive, and another lab's is set beside our own.

# What is packed is fetched, if the workflow is not on this machine; what is run is in common.smk.
PACKED = [
    "CITATION.cff",
    "LICENSE",
    "README.md",
    "Snakefile",
    "envs/apptainer.def",
    "envs/benchmark.txt",
    "envs/environment.yaml",
    "envs/requirements.txt",
    "envs/slurm.txt",
    "envs/tests.txt",
    "workflow/Snakefile",
    "workflow/profiles/slurm/profile.yaml",
    "workflow/report/figure.rst",
    "workflow/report/workflow.rst",
    "workflow/rules/benchmark.smk",
    "workflow/rules/biology.smk",
    "workflow/rules/common.smk",
    "workflow/rules/data.smk",
    "workflow/rules/figures.smk",
    "workflow/rules/fit.smk",
    "workflow/rules/sharing.smk",
    "workflow/rules/simulate.smk",
]
PACKED = [own_file(f"../../{file}") for file in PACKED]


rule verify:
    log:
        f"<logs>/{STUDY}/verify.log",
    localrule: True  # says what it found where it was asked
    conda:
        ENVIRONMENT
    params:
        script=script("share"),
    message:
        f"Hold the files of the study {STUDY} against what it asks for, and against one another."
    shell:
        f"{PYTHON} {{params.script:q}} verify {shared_study()} 2>&1 | tee {{log:q}}"


rule export:
    input:
        results=study_files(),
    output:
        archive=f"<results>/export/{STUDY}.zip",
    log:
        f"<logs>/{STUDY}/export.log",
    conda:
        ENVIRONMENT
    params:
        script=script("share"),
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
        script=script("share"),
        other=other_results,
        folder=f"{RESULTS}/comparison",
    message:
        f"Compare the study {STUDY} with the results of another lab."
    shell:
        f"{PYTHON} {{params.script:q}} compare {shared_study()} --other {{params.other:q}} "
        "--output {params.folder:q} 2>&1 | tee {log:q}"
