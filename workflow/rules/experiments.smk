# Every other kind of experiment: one rule for each file that it declares, named like the stage that makes it.
# What differs stands in tripartite/kinds/<kind>/kind.yaml. A shell command is read when its job runs, after the loop:
# it takes the stage from params.

for kind in declarations.experiments().values():
    for file in kind.files.values() if kind.name != "network" else ():

        rule:
            name:
                file.stage
            input:
                data=HERE.reads(*file.reads),
            output:
                **{
                    file.name: (
                        snakefile.output(file)
                        if not file.grows_with
                        else update(snakefile.output(file))
                    )
                },
            log:
                f"<logs>/{{study}}/{{experiment}}/{file.stage}.log",
            conda:
                ENVIRONMENT
            threads: threads(file)
            resources:
                device=device(file)["device"],
                gpu=device(file)["gpu"],
                mem_mb=HERE.memory(file),
                runtime=snakefile.doubling(120),
            params:
                stage=HERE.script("stage"),
                name=file.stage,
                raw=HERE.raw_files(file.name),
                settings=HERE.settings(file.name),
                code=plan.stage_code(file.name),
            message:
                file.does.format(experiment="{wildcards.experiment}")
            shell:
                command("{params.name}", "{params.raw:q}")
