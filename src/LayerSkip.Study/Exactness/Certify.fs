namespace LayerSkip

open System.Threading

/// What the certificate decodes.
[<NoEquality; NoComparison>]
type CertifyOptions = {
    /// Prompts as ids; none: the certificate's own.
    Prompts: int[][]
    /// None: all of a small model, some of a deep one.
    ExitLayers: int list
    /// Each at least 1; none: 1, 2, 4 and 8 on a model of up to 6 layers, else 1 and 4.
    DraftLengths: int list
    /// What drafts in place of exits: of the grid above it takes the exits and lengths that it has a use for. Nothing said: exits.
    Drafting: DraftingOptions
    /// Those that draft beside it, with each of the draft lengths.
    Drafters: Drafter list
    /// The ids that drafts are chosen from; None: all.
    Vocabulary: ContextVocabulary option
    /// Of each text; 1 where less is given.
    MaxNewTokens: int
    /// Of the draws of T4, and of the certificate's own prompts where there is no tokenizer.
    Seed: int64
}

/// The findings of one of the tests T1 to T5, counted.
type CertifyTest = {
    /// "T1" to "T5".
    Name: string
    /// How many findings there are; none of T3 where the CPU kernels do not run.
    Checks: int
    Exact: int
    /// Not the argmax, but within the gap of it.
    Tie: int
    Violation: int
}

/// The certificate: it holds where no test has a violation and the rule of acceptance is lossless. The counts are those of all tests.
type CertifyReport = {
    Model: string
    Dtype: string
    /// What the file names ("Q4_K_M", "float16"), where it names one.
    Stored: string option
    /// The rule by which drafts were kept: "exact", "lossy top-k:2".
    Acceptance: string
    /// Whether the rule is lossless. One that is not has no certificate, whatever these texts were.
    IsLossless: bool
    /// Both for people: "q4_k_m, mostly q5_0".
    HeldIn: string
    /// How quantised matrices were multiplied: "auto", "float"; None where there are none.
    Compute: string option
    /// What the cache held: "f32", "f16", "q8".
    Kv: string
    /// How prompts were read: "auto", "exact".
    Prefill: string
    /// The share of a row's largest |logit| within which a token is a tie.
    Gap: float
    Tests: CertifyTest list
    Exact: int
    Tie: int
    Violation: int
    /// The largest gap seen, as such a share.
    WorstGap: float
}

/// The certificate of exactness: T1 texts are equal, T2 each token is the whole model's choice, T3 it is decided by
/// logits of the same bits (where the CPU kernels run), T4 sampling keeps its law, T5 the cache is that of a fresh
/// prefill.
[<RequireQualifiedAccess>]
module Certify =
    /// Prompts, exits and draft lengths of its own, exits that draft, and 24 new tokens.
    let options: CertifyOptions = {
        Prompts = [||]
        ExitLayers = []
        DraftLengths = []
        Drafting = DraftingOptions.none
        Drafters = []
        Vocabulary = None
        MaxNewTokens = 24
        Seed = 1L
    }

    /// The share of a row's largest |logit| within which a token is a tie.
    let gap (dtype: Dtype) : float = Exactness.gap dtype

    let private tally (name, findings: Exactness.Finding list) : CertifyTest =
        let count grade = findings |> List.filter (fun (found, _) -> found = grade) |> List.length

        {
            Name = name
            Checks = findings.Length
            Exact = count Exactness.Exact
            Tie = count Exactness.Tie
            Violation = count Exactness.Violation
        }

    let private ownPrompts (checkpoint: Checkpoint) seed : int[][] =
        let vocabulary = checkpoint.Config.Vocabulary

        match checkpoint.Tokenizer with
        | Some tokenizer ->
            [| "Once upon a time"; "The three main colours are"; "1, 2, 3, 4," |]
            |> Array.map (Tokenizer.encode tokenizer)
        | None ->
            let mutable key = Key.ofSeed seed

            let id _ =
                let struct (u, next) = Key.uniform key
                key <- next
                int (u * float vocabulary)

            [| 1; 5; 12 |] |> Array.map (fun length -> Array.init length id)

    let private exitGrid layers =
        if layers <= 6 then
            [ 1 .. layers - 1 ]
        else
            List.distinct [ 1; layers / 4; layers / 2; layers - 1 ]

    /// Whether something else than exits drafts, which the laws of exits tell nothing of.
    let private isOther (options: CertifyOptions) =
        not (options.Drafters.IsEmpty && (DraftingOptions.named options.Drafting).IsEmpty)

    /// What drafts, with the most that it drafts: of exits each with each length, and of another drafting what it has a use for.
    let private strategies
        (adapter: Lazy<Result<Adapter, LayerSkipError list>>)
        (checkpoint: Checkpoint)
        (options: CertifyOptions)
        exits
        lengths
        =
        let drafting = options.Drafting

        let planned (exit: ExitLayer option) length =
            { drafting with ExitLayer = exit |> Option.map _.Layers; DraftLength = Some length }
            |> Drafting.decideWith (fun _ -> adapter.Value) Sampling.Greedy checkpoint
            |> Check.getOrRaise
            |> Drafting.strategy checkpoint,
            length

        let others =
            List.allPairs options.Drafters lengths
            |> List.map (fun (drafter, length) ->
                let rule = defaultArg drafting.Acceptance AcceptanceRule.exact
                Strategy.Speculative(drafter, LengthPolicy.Fixed length).Accepting rule, length)

        let within (strategy: Strategy, length) =
            { strategy with Vocabulary = options.Vocabulary |> Option.orElse strategy.Vocabulary }, length

        [
            for exit in
                (if Drafting.takesExit drafting then
                     List.map Some exits
                 else
                     [ None ]) do
                for length in lengths -> planned exit length
        ]
        @ others
        |> List.map within

    /// What is wrong with the drafting that is asked for, beside exit layers that the model has not; one that has no use for exit layers
    /// takes none.
    let faults (checkpoint: Checkpoint) (options: CertifyOptions) : LayerSkipError list =
        let given = {
            options.Drafting with
                ExitLayer =
                    if Drafting.takesExit options.Drafting then
                        None
                    else
                        List.tryHead options.ExitLayers
                DraftLength = List.tryHead options.DraftLengths |> Option.orElse (Some 1)
        }

        Drafting.faults checkpoint given

    /// Runs the certificate. A LayerSkipException where an exit or a draft length does not fit (a model of one layer has no
    /// earlier exit), where a prompt leaves no room, and where the model's numbers overflow; once `cancelled` is, an
    /// OperationCanceledException within a pass.
    let runUntil
        (cancelled: CancellationToken)
        (checkpoint: Checkpoint)
        (options: CertifyOptions)
        : CertifyReport =
        let weights = checkpoint.Weights
        let layers = weights.Config.Layers
        let gap = gap weights.Dtype
        let given =
            if options.ExitLayers.IsEmpty then
                exitGrid layers
            else
                options.ExitLayers

        let lengths =
            if not options.DraftLengths.IsEmpty then
                options.DraftLengths
            elif layers <= 6 then
                [ 1; 2; 4; 8 ]
            else
                [ 1; 4 ]

        let exits =
            (if layers < 2 then [ 1 ] else given)
            |> List.map (fun exit -> ExitLayer.TryCreate(layers, exit) |> Check.getOrRaise)

        for length in lengths do
            Check.atLeast 1 "draft-length" length |> Check.throwAny

        let room = max 1 (weights.Config.Context / 2)
        let own () = ownPrompts checkpoint options.Seed |> Array.map (Array.truncate room)
        let prompts =
            if options.Prompts.Length > 0 then
                options.Prompts
            else
                own ()

        let length = max 1 options.MaxNewTokens
        let adapter = lazy (Adapters.load None checkpoint)
        let grid = strategies adapter checkpoint options exits lengths
        let vocabulary = (fst grid.Head).Vocabulary

        // It shares embedding and head with the model, and goes before it.
        use _adapter = {
            new System.IDisposable with
                member _.Dispose() =
                    if adapter.IsValueCreated then
                        adapter.Value
                        |> Result.iter (fun adapter -> (adapter :> System.IDisposable).Dispose())
        }

        let findings = [
            "T1", Exactness.texts cancelled weights gap length prompts grid
            "T2", Exactness.tokens cancelled weights gap length prompts grid
            "T3", Exactness.logits cancelled weights length prompts grid
            "T4",
            Exactness.sampling cancelled weights vocabulary options.Seed prompts exits
            @ (if isOther options then
                   Exactness.drawn cancelled weights options.Seed length prompts grid
               else
                   [])
            "T5", Exactness.caches cancelled weights length prompts grid
        ]

        let tests = List.map tally findings
        let acceptance = (fst grid.Head).Acceptance

        {
            Model = checkpoint.Path
            Dtype = Weights.dtypeName weights
            Stored = weights.Config.StoredDtype
            Acceptance = acceptance.Name
            IsLossless = acceptance.IsLossless
            HeldIn = Weights.description weights
            Compute = Weights.compute weights
            Kv = Weights.kv weights
            Prefill = Prefill.name weights.Prefill
            Gap = gap
            Tests = tests
            Exact = tests |> List.sumBy _.Exact
            Tie = tests |> List.sumBy _.Tie
            Violation = tests |> List.sumBy _.Violation
            WorstGap = findings |> Seq.collect snd |> Seq.map snd |> Seq.fold max 0.0
        }

    /// `runUntil` that nothing cancels.
    let run (checkpoint: Checkpoint) (options: CertifyOptions) : CertifyReport =
        runUntil CancellationToken.None checkpoint options
