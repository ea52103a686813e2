namespace LayerSkip.Cli

open LayerSkip

/// What `layerskip train --recipe adapter` makes of its command line.
[<RequireQualifiedAccess>]
module internal AdapterTrainOptions =
    /// The recipe's name: it trains no model, and so is none of `Recipe.presets`.
    let recipe = "adapter"

    /// Ids that the base writes at most where nobody says how many.
    let private mostOwn = 4_000_000L

    /// Options of `train` that say nothing here.
    let private vain (argument: TrainArgument) : string option =
        match argument with
        | TrainArgument.Shape _ -> Some "shape"
        | TrainArgument.Config _ -> Some "config"
        | TrainArgument.Tokenizer _ -> Some "tokenizer"
        | TrainArgument.Exits _ -> Some "exits"
        | TrainArgument.ExitLabels _ -> Some "exit-labels"
        | TrainArgument.ExitLastLayer _ -> Some "exit-last-layer"
        | TrainArgument.Dropout _ -> Some "dropout"
        | TrainArgument.DropoutDepth _ -> Some "dropout-depth"
        | TrainArgument.DropoutTime _ -> Some "dropout-time"
        | TrainArgument.Recompute -> Some "recompute"
        | TrainArgument.DraftLength _ -> Some "draft-length"
        | TrainArgument.ProbeEvery _ -> Some "probe-every"
        | TrainArgument.ProbeExits _ -> Some "probe-exits"
        | _ -> None

    /// Options that are for adapters alone.
    let private isOwn (argument: TrainArgument) =
        match argument with
        | TrainArgument.Adapter _
        | TrainArgument.Rank _
        | TrainArgument.SourceLayer _
        | TrainArgument.SelfTokens _
        | TrainArgument.Opening _
        | TrainArgument.Temperature _
        | TrainArgument.AtOnce _ -> true
        | _ -> false

    /// Refuses what a run of an adapter, or one of a model, has no use for.
    let check (isAdapter: bool) (arguments: TrainArgument list) : unit =
        match isAdapter, List.tryPick vain arguments with
        | true, Some option ->
            Inputs.usage
                $"--{option} is for recipes that train a model; --recipe adapter leaves it as it is, so leave it out"
        | false, _ when List.exists isOwn arguments ->
            Inputs.usage
                "--adapter, --rank, --source-layer, --self-tokens, --opening, --temperature and --at-once go with --recipe adapter"
        | _ -> ()

    /// The dtype that the base is loaded in, and that its passes compute in.
    let baseDtype (common: Common) : Dtype =
        match common.Dtype, common.Device with
        | Some dtype, _ -> dtype
        | None, Device.Cuda -> Dtype.BF16
        | None, Device.Cpu -> Dtype.F32

    /// The run's options for a base.
    let resolve (common: Common) (given: GivenTraining) (model: Checkpoint) : AdapterOptions =
        let config, own = model.Config, given.OfAdapter
        let exit = given.ExitLayer |> Option.defaultValue (fst (Checkpoint.exitAndDraft model))

        let form =
            AdapterForm.tryCreate
                config.Hidden
                (defaultArg own.Form "block")
                (defaultArg own.Rank (min 64 config.Hidden))
            |> Check.getOrRaise

        if own.Rank.IsSome && own.Form <> Some "lowrank" then
            Inputs.usage "--rank goes with --adapter lowrank"

        if own.Source.IsSome && form <> AdapterForm.Block then
            Inputs.usage "--source-layer goes with --adapter block"

        let standard = AdapterOptions.standard config.Layers form exit
        let asIs = given.OfAdapter.SelfTokens.IsNone && not given.Data.Train.IsEmpty
        let pairs = given.Data.Train |> List.exists Texts.isJson

        let usual = {
            standard.Run with
                Seed = common.Seed
                Precision = baseDtype common
                // What the base writes is as long as a sample.
                Layout = if asIs && not pairs then Layout.Packed else Layout.Each
                SequenceLength = min standard.Run.SequenceLength config.Context
        }

        let asked = TrainOptions.changed given usual

        {
            standard with
                Source = defaultArg own.Source config.Layers
                Run =
                    TrainOptions.changed given {
                        usual with
                            Rate.Warmup = min usual.Rate.Warmup (max 0 (asked.Steps / 4))
                    }
        }

    /// What the run learns from.
    let lessons (common: Common) (given: GivenTraining) (options: TrainingOptions) : AdapterLessons =
        let data, own = TrainOptions.data given, given.OfAdapter
        let read =
            int64 options.Steps
            * int64 (options.BatchSize * options.Accumulate)
            * int64 options.SequenceLength

        let writing tokens =
            Some {
                Tokens = tokens
                Opening = defaultArg own.Opening 16
                Temperature = defaultArg own.Temperature 0.8
                AtOnce = defaultArg own.AtOnce (SelfText.defaultAtOnce common.Device)
            }

        match own.SelfTokens with
        | Some tokens -> { Data = data; Writing = writing (int64 tokens) }
        | None when data.Train.IsEmpty -> { Data = data; Writing = writing (min mostOwn read) }
        | None when own.Opening.IsSome || own.Temperature.IsSome || own.AtOnce.IsSome ->
            Inputs.usage
                "--opening, --temperature and --at-once say how the model writes its own texts; give --self-tokens, or leave them out"
        | None -> { Data = data; Writing = None }
