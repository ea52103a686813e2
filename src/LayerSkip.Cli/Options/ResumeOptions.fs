namespace LayerSkip.Cli

open LayerSkip

/// What goes with `--resume`: a run that goes on has its own options, and changes some of them only on purpose.
[<RequireQualifiedAccess>]
module internal ResumeOptions =
    /// What a run that goes on may change on purpose, with --extend.
    let private isExtension (argument: TrainArgument) =
        match argument with
        | TrainArgument.Steps _
        | TrainArgument.LearningRate _
        | TrainArgument.Warmup _
        | TrainArgument.RateFloor _
        | TrainArgument.WeightDecay _
        | TrainArgument.ClipNorm _
        | TrainArgument.OnSpike _
        | TrainArgument.ValidateEvery _
        | TrainArgument.ValidationTokens _
        | TrainArgument.ProbeEvery _
        | TrainArgument.SaveEvery _
        | TrainArgument.Keep _ -> true
        | _ -> false

    /// Options of the command that have a place beside --resume.
    let private resumes (extend: bool) (argument: TrainArgument) =
        argument.IsResume || (extend && (argument.IsExtend || isExtension argument))

    /// Refuses what a run that goes on cannot honour, among the common options and those of `train`.
    let check (common: Argument list) (arguments: TrainArgument list) (given: GivenTraining) : unit =
        match given.Resume with
        | Some "" -> Inputs.usage "--resume is empty; name the folder of a run"
        | Some _ when common |> List.exists (fun option -> option.IsModel || option.IsDtype || option.IsSeed) ->
            Inputs.usage
                "--resume goes on with the run's own model, dtype and seed; leave --model, --dtype and --seed out"
        | Some _ when arguments |> List.exists (resumes given.Extend >> not) ->
            Inputs.usage
                "--resume goes on with the run's own options; leave the others of `train` out, or change some of them on purpose with --extend (see `layerskip train --help`)"
        | Some _ when given.Extend && not (List.exists isExtension arguments) ->
            Inputs.usage
                "--extend changes nothing; give what to change with it, as --steps (see `layerskip train --help`)"
        | None when given.Extend ->
            Inputs.usage "--extend changes a run that goes on; name its folder with --resume"
        | _ -> ()
