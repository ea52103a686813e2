namespace LayerSkip

open System

/// What holds of every configuration, whichever kind of file it comes from. The bounds are beyond any model, and such that
/// the size of each tensor, row and angle can be computed: in 64 bits a product of two sizes, in float32 a number.
[<RequireQualifiedAccess>]
module internal ConfigCheck =
    /// Also the most that a reader may allocate by.
    let mostLayers = 10_000

    let private sizes (config: LlamaConfig) = [
        "hidden_size", config.Hidden, 1 <<< 20
        "intermediate_size", config.Intermediate, 1 <<< 24
        "vocab_size", config.Vocabulary, 1 <<< 24
        "num_hidden_layers", config.Layers, mostLayers
        "num_attention_heads", config.Heads, 1 <<< 16
        "num_key_value_heads", config.KvHeads, 1 <<< 16
        "head_dim", config.HeadDim, 1 <<< 16
        "max_position_embeddings", config.Context, Int32.MaxValue
    ]

    /// Rows of q, k and v together.
    let private mostRows = 1L <<< 24

    // Of a factor or a divisor: one that leaves angles alone, or nearly nothing of them.
    let private positive, huge = 1e-6, 1e6

    // Not of a NaN.
    let private isInside (least: float) (most: float) (value: float) = value >= least && value <= most

    /// Names, values and bounds.
    let private numbers (config: LlamaConfig) = [
        "rms_norm_eps", config.NormEps, 1e-30, 1.0
        "rope_theta", config.RopeTheta, 1.0 + 1e-6, 1e30

        for name, value in RopeScaling.numbers config.RopeScaling do
            match name with
            | "factor" -> name, value, 1.0, huge
            | name when name = RopeScaling.originalName -> name, value, 1.0, float Int32.MaxValue
            | name -> name, value, positive, huge

        match config.RopeScaling with
        | RopeScaling.Divided divisors ->
            for divisor in divisors |> Array.tryFind (isInside positive huge >> not) |> Option.toList do
                "divisor", divisor, positive, huge
        | _ -> ()
    ]

    /// Every fault; `named` gives the file's own name of a field of config.json. Relations between sizes are looked
    /// at only where each is good: KV heads divide heads, a head is even.
    let faults (named: string -> string) (path: string) (config: LlamaConfig) : LayerSkipError list =
        let bad text = LayerSkipError.BadFile(path, text)
        let heads, kvHeads, headDim =
            named "num_attention_heads", named "num_key_value_heads", named "head_dim"

        let wrongSizes = [
            for name, size, most in sizes config do
                if size < 1 then
                    bad $"\"{named name}\" is {size}, it must be at least 1"
                elif size > most then
                    bad $"\"{named name}\" is {size}, which is too big; it must be at most {most}"
        ]

        let rows = (int64 config.Heads + 2L * int64 config.KvHeads) * int64 config.HeadDim

        let wrongRelations () = [
            if config.Heads % config.KvHeads <> 0 then
                bad $"\"{kvHeads}\" is {config.KvHeads}, it must divide \"{heads}\", {config.Heads}"

            if config.HeadDim % 2 <> 0 then
                bad $"\"{headDim}\" is {config.HeadDim}, it must be even"

            if rows > mostRows then
                bad
                    $"{config.Heads} heads of {config.HeadDim} (\"{heads}\", \"{headDim}\") are too big: with keys and values they must have at most {mostRows} rows"
        ]

        let wrongNumbers = [
            for name, value, least, most in numbers config do
                if not (isInside least most value) then
                    bad $"\"{named name}\" is {value}, it must be a number from {least} to {most}"

            match config.RopeScaling with
            | RopeScaling.Llama3(_, low, high, _) when high <= low ->
                bad $"\"high_freq_factor\" is {high}, it must be greater than \"low_freq_factor\", {low}"
            | _ -> ()
        ]

        wrongSizes @ (if wrongSizes.IsEmpty then wrongRelations () else []) @ wrongNumbers
