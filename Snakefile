include: "workflow/Snakefile"


rule default:
    default_target: True
    input:
        rules.all.input,
    message:
        f"Everything of the study {STUDY} is there."
