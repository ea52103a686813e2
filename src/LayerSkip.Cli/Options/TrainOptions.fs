namespace LayerSkip.Cli

open System.IO
open LayerSkip

/// What `layerskip train --recipe adapter` was given of its own.
type internal GivenAdapter = {
    Form: string option
    Rank: int option
    Source: int option
    SelfTokens: int option
    Opening: int option
    Temperature: float option
    AtOnce: int option
}

/// What `layerskip train` was given. What stands apart from `Changes` is not of the run's options, or decides about others.
[<NoEquality; NoComparison>]
type internal GivenTraining = {
    /// Its share for validation is the default one: `ValidShare` has what was given.
    Data: TrainingData
    ValidShare: float option
    Output: string option
    Resume: string option
    Extend: bool
    Shape: string option
    Config: string option
    Tokenizer: string option
    Recipe: string option
    ExitLayer: int option
    DraftLength: int option
    /// What is for --recipe adapter alone.
    OfAdapter: GivenAdapter
    /// Changes of the options, in the order of the command line.
    Changes: (TrainingOptions -> TrainingOptions) list
}

/// Reads the options of `layerskip train`, and fills in what they leave open from the model, the data and the recipe.
[<RequireQualifiedAccess>]
module internal TrainOptions =
    /// What a command line without options gives.
    let private none: GivenTraining = {
        Data = {
            Train = []
            Validation = []
            ValidationShare = TrainingData.defaultShare
            Bos = true
            Eos = true
            Special = true
        }
        ValidShare = None
        Output = None
        Resume = None
        Extend = false
        Shape = None
        Config = None
        Tokenizer = None
        Recipe = None
        ExitLayer = None
        DraftLength = None
        OfAdapter = {
            Form = None
            Rank = None
            Source = None
            SelfTokens = None
            Opening = None
            Temperature = None
            AtOnce = None
        }
        Changes = []
    }

    /// The options with one more; what cannot be read is told of at once.
    let private add (given: GivenTraining) (argument: TrainArgument) : GivenTraining =
        let data = given.Data
        let change how = { given with Changes = given.Changes @ [ how ] }
        let recipe how value (it: TrainingOptions) = { it with Recipe = how value it.Recipe }
        // Read here, so that what is no number is told of before anything else.
        let real name text how = Inputs.real name "see --help" text |> how |> change

        match argument with
        | TrainArgument.Data file -> { given with Data.Train = data.Train @ [ file ] }
        | TrainArgument.Output folder -> { given with Output = Some folder }
        | TrainArgument.Resume folder -> { given with Resume = Some folder }
        | TrainArgument.Extend -> { given with Extend = true }
        | TrainArgument.Validation file -> { given with Data.Validation = data.Validation @ [ file ] }
        | TrainArgument.ValidShare share -> {
            given with
                ValidShare = Some(Inputs.real "valid-share" "see --help" share)
          }
        | TrainArgument.Layout layout -> change (fun it -> { it with Layout = layout })
        | TrainArgument.NoBos -> { given with Data.Bos = false }
        | TrainArgument.NoEos -> { given with Data.Eos = false }
        | TrainArgument.NoSpecial -> { given with Data.Special = false }
        | TrainArgument.Shape sizes -> { given with Shape = Some sizes }
        | TrainArgument.Config file -> { given with Config = Some file }
        | TrainArgument.Tokenizer folder -> { given with Tokenizer = Some folder }
        | TrainArgument.Recipe name -> { given with Recipe = Some name }
        | TrainArgument.Exits rule ->
            let rule = ExitRule.tryParse rule |> Check.getOrRaise
            change (recipe (fun rule it -> { it with Exits = rule }) rule)
        | TrainArgument.ExitLabels w ->
            real "exit-labels" w (recipe (fun w it -> { it with Targets.Labels = w }))
        | TrainArgument.ExitLastLayer w ->
            real "exit-last-layer" w (recipe (fun w it -> { it with Targets.LastLayer = w }))
        | TrainArgument.Dropout p -> real "dropout" p (recipe (fun p it -> { it with Dropout = p }))
        | TrainArgument.DropoutDepth shape ->
            change (recipe (fun shape it -> { it with Depth = shape }) shape)
        | TrainArgument.DropoutTime shape -> change (recipe (fun shape it -> { it with Time = shape }) shape)
        | TrainArgument.Steps count -> change (fun it -> { it with Steps = count })
        | TrainArgument.BatchSize count -> change (fun it -> { it with BatchSize = count })
        | TrainArgument.Accumulate count -> change (fun it -> { it with Accumulate = count })
        | TrainArgument.SequenceLength count -> change (fun it -> { it with SequenceLength = count })
        | TrainArgument.LearningRate r -> real "learning-rate" r (fun r it -> { it with Rate.Peak = r })
        | TrainArgument.Warmup count -> change (fun it -> { it with Rate.Warmup = count })
        | TrainArgument.RateFloor s -> real "rate-floor" s (fun s it -> { it with Rate.Floor = s })
        | TrainArgument.WeightDecay w -> real "weight-decay" w (fun w it -> { it with Adam.WeightDecay = w })
        | TrainArgument.Beta1 b -> real "beta1" b (fun b it -> { it with Adam.Beta1 = b })
        | TrainArgument.Beta2 b -> real "beta2" b (fun b it -> { it with Adam.Beta2 = b })
        | TrainArgument.Epsilon e -> real "epsilon" e (fun e it -> { it with Adam.Epsilon = e })
        | TrainArgument.ClipNorm n -> real "clip-norm" n (fun n it -> { it with ClipNorm = n })
        | TrainArgument.OnSpike rule -> change (fun it -> { it with OnSpike = rule })
        | TrainArgument.Recompute -> change (fun it -> { it with Recompute = true })
        | TrainArgument.ExitLayer exit -> { given with ExitLayer = Some exit }
        | TrainArgument.DraftLength length -> { given with DraftLength = Some length }
        | TrainArgument.ValidateEvery count -> change (fun it -> { it with ValidateEvery = count })
        | TrainArgument.ValidationTokens count -> change (fun it -> { it with ValidationTokens = count })
        | TrainArgument.ProbeEvery count -> change (fun it -> { it with ProbeEvery = count })
        | TrainArgument.ProbeExits layers ->
            let exits = Inputs.numbers "probe-exits" layers |> List.ofArray
            change (fun it -> { it with ProbeExits = exits })
        | TrainArgument.SaveEvery count -> change (fun it -> { it with SaveEvery = count })
        | TrainArgument.Keep count -> change (fun it -> { it with Keep = count })
        | TrainArgument.Adapter form -> { given with OfAdapter.Form = Some form }
        | TrainArgument.Rank rank -> { given with OfAdapter.Rank = Some rank }
        | TrainArgument.SourceLayer layer -> { given with OfAdapter.Source = Some layer }
        | TrainArgument.SelfTokens count -> { given with OfAdapter.SelfTokens = Some count }
        | TrainArgument.Opening count -> { given with OfAdapter.Opening = Some count }
        | TrainArgument.Temperature t -> {
            given with
                OfAdapter.Temperature = Some(Inputs.real "temperature" "see --help" t)
          }
        | TrainArgument.AtOnce count -> { given with OfAdapter.AtOnce = Some count }

    /// Reads what `train` was given.
    let read (arguments: TrainArgument list) : GivenTraining = arguments |> List.fold add none

    /// A run's options with what the command line says of them.
    let changed (given: GivenTraining) (options: TrainingOptions) : TrainingOptions =
        given.Changes |> List.fold (fun options change -> change options) options

    /// Whether the model is a new one, of --shape or --config.
    let isFromScratch (given: GivenTraining) : bool = given.Shape.IsSome || given.Config.IsSome

    /// The recipe's starting point; a model from scratch learns by another than one that is trained on.
    let private preset (given: GivenTraining) (layers: int) : Recipe =
        let name =
            given.Recipe
            |> Option.defaultValue (if isFromScratch given then "scratch" else "continual")

        Recipe.tryPreset name layers |> Check.getOrRaise

    /// The exit layer and draft length that the model will recommend.
    let recommended (given: GivenTraining) (model: (int * int) option) : (int * int) option =
        match given.ExitLayer, given.DraftLength, model with
        | Some exit, length, _ -> Some(exit, defaultArg length LlamaConfig.defaultDraft)
        | None, Some length, Some(exit, _) -> Some(exit, length)
        | None, Some _, None -> Inputs.usage "--draft-length needs --exit-layer: the model recommends none"
        | None, None, model -> model

    /// The run's options for a model of this configuration.
    let resolve (common: Common) (given: GivenTraining) (config: LlamaConfig) recommended : TrainingOptions =
        given.ExitLayer
        |> Option.iter (fun exit -> ExitLayer.TryCreate(config.Layers, exit) |> Check.getOrRaise |> ignore)

        let standard = TrainingOptions.standard (preset given config.Layers)

        let usualDtype =
            if common.Device = Device.Cuda then
                Dtype.BF16
            else
                Dtype.F32
        let pairs = given.Data.Train |> List.exists Texts.isJson

        let usual = {
            standard with
                Seed = common.Seed
                Precision = common.Dtype |> Option.defaultValue usualDtype
                Layout = if pairs then Layout.Each else Layout.Packed
                SequenceLength = min standard.SequenceLength config.Context
                Rate.Peak =
                    if isFromScratch given then
                        standard.Rate.Peak
                    else
                        TrainingOptions.continuedPeak
                ProbeExits = recommended |> Option.map fst |> Option.toList
                ProbeDraft = recommended |> Option.map snd |> Option.defaultValue standard.ProbeDraft
        }

        let asked = changed given usual

        let options =
            changed given {
                usual with
                    // A short run reaches its highest rate too.
                    Rate.Warmup = min usual.Rate.Warmup (max 0 (asked.Steps / 4))
                    ProbeEvery = if asked.ProbeExits.IsEmpty then 0 else asked.ValidateEvery
            }

        if asked.ProbeExits.IsEmpty && options.ProbeEvery > 0 then
            Inputs.usage "--probe-every needs exits that draft; give --probe-exits or --exit-layer"

        options

    /// What to learn and to validate on.
    let data (given: GivenTraining) : TrainingData =
        match given.Data.Validation, given.ValidShare with
        | _ :: _, Some _ -> Inputs.usage "--valid-share and --validation exclude each other; give one"
        | _ :: _, None -> { given.Data with ValidationShare = 0.0 }
        | [], share -> { given.Data with ValidationShare = defaultArg share TrainingData.defaultShare }

    /// A model's first weights and what belongs to them, where it is made from scratch.
    let fromScratch (common: Common) (given: GivenTraining) (master: Dtype) : Checkpoint =
        let makes = "`layerskip tokenizer train` makes one"

        let tokenizer =
            given.Tokenizer
            |> Option.map (fun folder ->
                match Tokenizer.tryLoad folder |> Check.getOrRaise with
                | Some tokenizer -> tokenizer
                | None when Directory.Exists folder ->
                    Inputs.stop (
                        LayerSkipError.BadFile(folder, $"has no tokenizer.json or tokenizer.model; {makes}")
                    )
                | None ->
                    Inputs.stop (LayerSkipError.NotFound(folder, $"name the folder of a tokenizer; {makes}")))

        if
            tokenizer.IsNone
            && not (given.Data.Train @ given.Data.Validation |> List.forall TokenFile.isTokens)
        then
            Inputs.usage "a model from scratch reads text by --tokenizer; give one, or files of token ids"

        let size = tokenizer |> Option.map Tokenizer.vocabularySize

        // What a configuration says of BOS and EOS, it says of the tokenizer that it came with.
        let ofTokenizer (config: LlamaConfig) =
            match tokenizer with
            | None -> config
            | Some tokenizer -> {
                config with
                    Bos = Tokenizer.bos tokenizer
                    StopIds = Tokenizer.eos tokenizer |> Option.toArray
              }

        let config =
            match given.Shape, given.Config with
            | Some _, Some _ -> Inputs.usage "--shape and --config exclude each other; give one"
            | Some sizes, None -> Shapes.parse size sizes |> ofTokenizer
            | None, Some file -> LlamaConfig.load file |> Check.getOrRaise |> ofTokenizer
            | None, None -> Inputs.usage "no --shape and no --config"

        match size with
        | Some size when size > config.Vocabulary ->
            Inputs.usage
                $"the tokenizer has {size} tokens and the model a vocabulary of {config.Vocabulary}; give the model {size}, or leave its vocabulary out of --shape"
        | _ -> ()

        Backend.tryDevice common.Device |> Check.getOrRaise |> ignore

        // Without a tokenizer no folder's files belong to it.
        let path = List.choose id [ given.Tokenizer; given.Shape; given.Config ] |> List.head

        {
            Checkpoint.ofWeights path (Weights.initial common.Seed master common.Device config) tokenizer with
                Kept = given.Config |> Option.map KeptFields.ofConfig |> Option.defaultValue KeptFields.none
        }
