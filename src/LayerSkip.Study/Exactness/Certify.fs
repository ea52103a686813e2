namespace LayerSkip

/// What the certificate decodes.
[<NoEquality; NoComparison>]
type CertifyOptions = {
    /// Prompts as ids; none: the certificate's own.
    Prompts: int[][]
    /// None: all of a small model, some of a deep one.
    ExitLayers: int list
    /// Each at least 1; none: 1, 2, 4 and 8 on a model of up to 6 layers, else 1 and 4.
    DraftLengths: int list
    /// Those that draft beside exits, with each of the draft lengths; T4 is of exits alone.
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

/// The certificate: it holds where no test has a violation. The counts are those of all tests.
type CertifyReport = {
    Model: string
    Dtype: string
    /// What the file names ("Q4_K_M", "float16"), where it names one.
    Stored: string option
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
    /// Prompts, exits and draft lengths of its own, no other drafter, and 24 new tokens.
    let options: CertifyOptions = {
        Prompts = [||]
        ExitLayers = []
        DraftLengths = []
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

    /// Runs the certificate. A LayerSkipException where an exit or a draft length does not fit (a model of one layer has no
    /// earlier exit), where a prompt leaves no room, and where the model's numbers overflow.
    let run (checkpoint: Checkpoint) (options: CertifyOptions) : CertifyReport =
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
        let drafters = (exits |> List.map Drafter.earlyExit) @ options.Drafters

        let grid =
            List.allPairs drafters lengths
            |> List.map (fun (drafter, length) ->
                let strategy = Strategy.Speculative(drafter, LengthPolicy.Fixed length)
                { strategy with Vocabulary = options.Vocabulary }, length)

        let findings = [
            "T1", Exactness.texts weights gap length prompts grid
            "T2", Exactness.tokens weights gap length prompts grid
            "T3", Exactness.logits weights length prompts grid
            "T4", Exactness.sampling weights options.Vocabulary options.Seed prompts exits
            "T5", Exactness.caches weights length prompts grid
        ]

        let tests = List.map tally findings

        {
            Model = checkpoint.Path
            Dtype = Weights.dtypeName weights
            Stored = weights.Config.StoredDtype
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
