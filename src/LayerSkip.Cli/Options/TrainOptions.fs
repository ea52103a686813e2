namespace LayerSkip.Cli

open System.IO
open LayerSkip

/// What `layerskip train` was given.
[<NoEquality; NoComparison>]
type internal GivenTraining = {
    Data: string list
    Validation: string list
    ValidShare: float option
    Layout: Layout option
    Bos: bool
    Eos: bool
    Special: bool
    Output: string option
    Resume: string option
    Extend: bool
    Shape: string option
    Config: string option
    Tokenizer: string option
    Recipe: string option
    ExitLayer: int option
    DraftLength: int option
    ProbeExits: int list option
    /// Changes of the options, in the order of the command line.
    Changes: (TrainingOptions -> TrainingOptions) list
    ProbeEvery: int option
    SequenceLength: int option
    LearningRate: float option
}

/// Reads the options of `layerskip train`.
[<RequireQualifiedAccess>]
module internal TrainOptions =
    let private none: GivenTraining = {
        Data = []
        Validation = []
        ValidShare = None
        Layout = None
        Bos = true
        Eos = true
        Special = true
        Output = None
        Resume = None
        Extend = false
        Shape = None
        Config = None
        Tokenizer = None
        Recipe = None
        ExitLayer = None
        DraftLength = None
        ProbeExits = None
        Changes = []
        ProbeEvery = None
        SequenceLength = None
        LearningRate = None
    }

    let private shape (name: DropoutShapeName) =
        match name with
        | DropoutShapeName.Constant -> DropoutShape.Constant
        | DropoutShapeName.Exponential -> DropoutShape.Exponential

    let private add (given: GivenTraining) (argument: TrainArgument) : GivenTraining =
        let change how = { given with Changes = given.Changes @ [ how ] }
        let real name text = Inputs.real name "see --help" text
        let recipe how = change (fun options -> { options with Recipe = how options.Recipe })
        let adam how = change (fun options -> { options with Adam = how options.Adam })
        let rate how = change (fun options -> { options with Rate = how options.Rate })

        match argument with
        | TrainArgument.Data file -> { given with Data = given.Data @ [ file ] }
        | TrainArgument.Output folder -> { given with Output = Some folder }
        | TrainArgument.Resume folder -> { given with Resume = Some folder }
        | TrainArgument.Extend -> { given with Extend = true }
        | TrainArgument.Validation file -> { given with Validation = given.Validation @ [ file ] }
        | TrainArgument.ValidShare share -> { given with ValidShare = Some(real "valid-share" share) }
        | TrainArgument.Layout LayoutName.Packed -> { given with Layout = Some Layout.Packed }
        | TrainArgument.Layout LayoutName.Each -> { given with Layout = Some Layout.Each }
        | TrainArgument.NoBos -> { given with Bos = false }
        | TrainArgument.NoEos -> { given with Eos = false }
        | TrainArgument.NoSpecial -> { given with Special = false }
        | TrainArgument.Shape sizes -> { given with Shape = Some sizes }
        | TrainArgument.Config file -> { given with Config = Some file }
        | TrainArgument.Tokenizer folder -> { given with Tokenizer = Some folder }
        | TrainArgument.Recipe name -> { given with Recipe = Some name }
        | TrainArgument.Exits rule ->
            let rule = ExitRule.tryParse rule |> Check.getOrRaise
            recipe (fun recipe -> { recipe with Exits = rule })
        | TrainArgument.ExitLabels weight ->
            let weight = real "exit-labels" weight
            recipe (fun recipe -> { recipe with Targets = { recipe.Targets with Labels = weight } })
        | TrainArgument.ExitLastLayer weight ->
            let weight = real "exit-last-layer" weight
            recipe (fun recipe -> { recipe with Targets = { recipe.Targets with LastLayer = weight } })
        | TrainArgument.Dropout p ->
            let p = real "dropout" p
            recipe (fun recipe -> { recipe with Dropout = p })
        | TrainArgument.DropoutDepth name -> recipe (fun recipe -> { recipe with Depth = shape name })
        | TrainArgument.DropoutTime name -> recipe (fun recipe -> { recipe with Time = shape name })
        | TrainArgument.Steps count -> change (fun options -> { options with Steps = count })
        | TrainArgument.BatchSize count -> change (fun options -> { options with BatchSize = count })
        | TrainArgument.Accumulate count -> change (fun options -> { options with Accumulate = count })
        | TrainArgument.SequenceLength count -> { given with SequenceLength = Some count }
        | TrainArgument.LearningRate peak -> { given with LearningRate = Some(real "learning-rate" peak) }
        | TrainArgument.Warmup count -> rate (fun rate -> { rate with Warmup = count })
        | TrainArgument.RateFloor share ->
            let share = real "rate-floor" share
            rate (fun rate -> { rate with Floor = share })
        | TrainArgument.WeightDecay weight ->
            let weight = real "weight-decay" weight
            adam (fun adam -> { adam with WeightDecay = weight })
        | TrainArgument.Beta1 beta ->
            let beta = real "beta1" beta
            adam (fun adam -> { adam with Beta1 = beta })
        | TrainArgument.Beta2 beta ->
            let beta = real "beta2" beta
            adam (fun adam -> { adam with Beta2 = beta })
        | TrainArgument.Epsilon epsilon ->
            let epsilon = real "epsilon" epsilon
            adam (fun adam -> { adam with Epsilon = epsilon })
        | TrainArgument.ClipNorm norm ->
            let norm = real "clip-norm" norm
            change (fun options -> { options with ClipNorm = norm })
        | TrainArgument.OnSpike name ->
            let rule =
                match name with
                | SpikeRuleName.Stop -> SpikeRule.Stop
                | SpikeRuleName.Skip -> SpikeRule.Skip
                | SpikeRuleName.Warn -> SpikeRule.Warn

            change (fun options -> { options with OnSpike = rule })
        | TrainArgument.Recompute -> change (fun options -> { options with Recompute = true })
        | TrainArgument.ExitLayer exit -> { given with ExitLayer = Some exit }
        | TrainArgument.DraftLength length -> { given with DraftLength = Some length }
        | TrainArgument.ValidateEvery count -> change (fun options -> { options with ValidateEvery = count })
        | TrainArgument.ValidationTokens count ->
            change (fun options -> { options with ValidationTokens = count })
        | TrainArgument.ProbeEvery count -> { given with ProbeEvery = Some count }
        | TrainArgument.ProbeExits layers -> {
            given with
                ProbeExits = Some(List.ofArray (Inputs.numbers "probe-exits" layers))
          }
        | TrainArgument.SaveEvery count -> change (fun options -> { options with SaveEvery = count })
        | TrainArgument.Keep count -> change (fun options -> { options with Keep = count })

    /// Reads what `train` was given.
    let read (arguments: TrainArgument list) : GivenTraining = arguments |> List.fold add none

    let isFromScratch (given: GivenTraining) : bool = given.Shape.IsSome || given.Config.IsSome

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

        let precision =
            match common.Dtype, common.Device with
            | Some dtype, _ -> dtype
            | None, Device.Cuda -> Dtype.BF16
            | None, Device.Cpu -> Dtype.F32

        let pairs = given.Data |> List.exists Texts.isJson
        let exits = given.ProbeExits |> Option.defaultValue (recommended |> Option.map fst |> Option.toList)

        let options = {
            standard with
                Seed = common.Seed
                Precision = precision
                Layout = given.Layout |> Option.defaultValue (if pairs then Layout.Each else Layout.Packed)
                SequenceLength =
                    given.SequenceLength |> Option.defaultValue (min standard.SequenceLength config.Context)
                Rate = {
                    standard.Rate with
                        Peak =
                            given.LearningRate
                            |> Option.defaultValue (
                                if isFromScratch given then
                                    standard.Rate.Peak
                                else
                                    TrainingOptions.continuedPeak
                            )
                }
                ProbeExits = exits
                ProbeDraft = recommended |> Option.map snd |> Option.defaultValue standard.ProbeDraft
        }

        let changed (options: TrainingOptions) =
            given.Changes |> List.fold (fun options change -> change options) options
        // A short run reaches its highest rate too.
        let warmup = min options.Rate.Warmup (max 0 ((changed options).Steps / 4))
        let options = changed { options with Rate = { options.Rate with Warmup = warmup } }

        if exits.IsEmpty && (given.ProbeEvery |> Option.exists (fun every -> every > 0)) then
            Inputs.usage "--probe-every needs exits that draft; give --probe-exits or --exit-layer"

        let probing = if exits.IsEmpty then 0 else options.ValidateEvery
        { options with ProbeEvery = defaultArg given.ProbeEvery probing }

    let data (given: GivenTraining) : TrainingData = {
        Train = given.Data
        Validation = given.Validation
        ValidationShare =
            match given.Validation, given.ValidShare with
            | _ :: _, Some _ -> Inputs.usage "--valid-share and --validation exclude each other; give one"
            | _ :: _, None -> 0.0
            | [], share -> defaultArg share TrainingData.defaultShare
        Bos = given.Bos
        Eos = given.Eos
        Special = given.Special
    }

    /// A model's first weights and what belongs to them, where it is made from scratch.
    let fromScratch (common: Common) (given: GivenTraining) (master: Dtype) : Checkpoint =
        let tokenizer =
            given.Tokenizer
            |> Option.map (fun folder ->
                match Tokenizer.tryLoad folder |> Check.getOrRaise with
                | Some tokenizer -> tokenizer
                | None when Directory.Exists folder ->
                    let fault =
                        "has no tokenizer.json or tokenizer.model; `layerskip tokenizer train` makes one"

                    raise (LayerSkipException [ LayerSkipError.BadFile(folder, fault) ])
                | None ->
                    let hint = "name the folder of a tokenizer; `layerskip tokenizer train` makes one"
                    raise (LayerSkipException [ LayerSkipError.NotFound(folder, hint) ]))

        if tokenizer.IsNone && not (given.Data @ given.Validation |> List.forall TokenFile.isTokens) then
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
