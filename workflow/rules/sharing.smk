# A finished study goes to another lab as one archive, and another lab's is set beside our own.

# What is packed is fetched, if the workflow is not on this machine.
for file in ("LICENSE", "README.md", "Snakefile", "envs/environment.yaml", "envs/requirements.txt"):
    own_file(f"../../{file}")
own_file("../Snakefile")
for file in ("benchmark", "biology", "common", "data", "figures", "fit", "sharing", "simulate"):
    own_file(f"{file}.smk")


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
