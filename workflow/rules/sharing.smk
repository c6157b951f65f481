# A finished study goes to another lab as one archive, and another lab's is set beside our own.

# What is packed is fetched, if the workflow is not on this machine; what is run is in common.smk.
for file in (
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
):
    own_file(f"../../{file}")


rule export:
    input:
        script=source("share"),
        settings=packed_settings,
        results=figure_files(STUDY) + experiment_files(STUDY),
    output:
        archive=f"<results>/export/{STUDY}.zip",
    log:
        f"<logs>/{STUDY}/export.log",
    conda:
        ENVIRONMENT
    params:
        code=code("share"),
    message:
        f"Check the study {STUDY} and pack it, with all that made it, into one archive."
    shell:
        "python {input.script:q} export --files {input.results:q} --settings {input.settings:q} "
        "--output {output.archive:q} 2>&1 | tee {log:q}"


rule compare:
    input:
        script=source("share"),
    log:
        f"<logs>/{STUDY}/compare.log",
    localrule: True  # says what it found where it was asked
    conda:
        ENVIRONMENT
    params:  # no input: an archive that was exported here is compared as it is
        other=other_results,
        files=lambda wildcards: [
            file.replace("<results>", RESULTS)
            for file in figure_files(STUDY) + experiment_files(STUDY)
        ],
        folder=lambda wildcards: f"{RESULTS}/comparison",
    message:
        f"Compare the study {STUDY} with the results of another lab."
    shell:
        "python {input.script:q} compare --files {params.files:q} --other {params.other:q} "
        "--output {params.folder:q} 2>&1 | tee {log:q}"
