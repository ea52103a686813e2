namespace LayerSkip

open System
open System.IO
open System.Security.Cryptography
open System.Text.Json

/// A way of decoding that a sweep times.
type SweepSetting =
    /// Every layer, one token at a time: what the others are compared with.
    | Autoregressive
    /// Drafts from the text itself.
    | PromptLookup of draftLength: int
    /// Drafts by layers 1..exit.
    | SelfSpeculative of exit: int * draftLength: int

    /// As reports name it.
    member this.Name =
        match this with
        | Autoregressive -> "autoregressive"
        | PromptLookup _ -> "prompt-lookup"
        | SelfSpeculative _ -> "self-speculative"

    /// The layers that draft, where some do.
    member this.Exit =
        match this with
        | SelfSpeculative(exit, _) -> Some exit
        | Autoregressive
        | PromptLookup _ -> None

    member this.DraftLength =
        match this with
        | Autoregressive -> None
        | PromptLookup length
        | SelfSpeculative(_, length) -> Some length

/// What a sweep decodes, in which ways, and how often.
type SweepOptions = {
    /// As ids; none: the sweep's own.
    Prompts: int[][]
    /// None: 1, 2, 3, 4, 6, 8, 12.. of the model's, and the one that it recommends.
    ExitLayers: int list
    /// None: 1, 2, 3, 4, 6 and 8.
    DraftLengths: int list
    /// New tokens of each text, 2 or more; the context may end it sooner.
    MaxNewTokens: int
    /// How often each prompt is decoded in every way.
    Runs: int
    /// Tokens that end a text. None: every text is as long as it may be, so that no way is flattered by short texts.
    StopIds: int[]
    /// Of the sweep's own prompts, where there is no tokenizer.
    Seed: int64
}

/// What decides the results of a sweep: what its shards have in common, as their files' first lines have it.
type SweepConfig = {
    /// The name of its folder or file.
    Model: string
    /// Of its files: shards of other weights do not belong together.
    Fingerprint: string
    Layers: int
    Dtype: string
    Compute: string option
    Kv: string
    Prefill: string
    /// How many, and a hash of their ids.
    Prompts: int
    PromptsHash: string
    Runs: int
    MaxNewTokens: int
    StopIds: int list
    ExitLayers: int list
    DraftLengths: int list
} with

    /// Autoregressive decoding first, then prompt lookup, then exits, each over the draft lengths.
    member this.Settings: SweepSetting list = [
        Autoregressive
        for length in this.DraftLengths do
            PromptLookup length
        for exit in this.ExitLayers do
            for length in this.DraftLengths do
                SelfSpeculative(exit, length)
    ]

    /// A cell is a prompt in one of its runs; all ways of decoding have their turn in it.
    member this.Cells = this.Prompts * this.Runs

[<RequireQualifiedAccess>]
module SweepOptions =
    /// Draft lengths where none are given.
    let defaultDraftLengths = [ 1; 2; 3; 4; 6; 8 ]

    /// 48 new tokens of each prompt, three times, whatever the tokens.
    let defaults: SweepOptions = {
        Prompts = [||]
        ExitLayers = []
        DraftLengths = defaultDraftLengths
        MaxNewTokens = 48
        Runs = 3
        StopIds = [||]
        Seed = 1L
    }

    /// Exit layers where none are given: closer together where they are cheap.
    let exitLayers (layers: int) (recommended: int) : int list =
        recommended :: [ 1; 2; 3; 4; 6; 8; 12; 16; 24; 32; 48; 64 ]
        |> List.filter (fun exit -> 0 < exit && exit < layers)
        |> List.distinct
        |> List.sort

    let private openings = [
        "Once upon a time there was a little girl named Lily. She"
        "Tom and his dog went to the park. They saw"
        "One day, a big red bird sat on a tree and"
        "\"Can you help me?\" asked the small bear. \"I lost my"
        "It was raining, so Mia and Ben stayed at home. They"
        "The old man had a boat. Every morning he"
        "Sara wanted to bake a cake with her mom. First they"
        "There was a cat who was afraid of the dark. At night"
    ]

    /// Prompts for a model that nothing is known of: beginnings of stories, or seeded ids where there is no tokenizer; the beginning
    /// of them where half of the context is less.
    let ownPrompts (checkpoint: Checkpoint) (seed: int64) : int[][] =
        let config = checkpoint.Config

        match checkpoint.Tokenizer with
        | Some tokenizer -> openings |> List.map (Tokenizer.encode tokenizer) |> Array.ofList
        | None ->
            Array.init 4 (fun prompt ->
                let key = Key.within prompt (Key.ofSeed seed)

                Array.init (4 + 3 * prompt) (fun place ->
                    let struct (u, _) = Key.uniform { key with Counter = uint64 place }
                    int (u * float config.Vocabulary)))
        |> Array.map (Array.truncate (max 1 (config.Context / 2)))

[<RequireQualifiedAccess>]
module SweepConfig =
    let private hashOfPrompts (prompts: int[][]) =
        use stream = new MemoryStream()
        use writer = new BinaryWriter(stream)

        for prompt in prompts do
            writer.Write prompt.Length
            prompt |> Array.iter writer.Write

        writer.Flush()
        Convert.ToHexStringLower(SHA256.HashData(stream.ToArray()))

    /// Of a model and options that are good, with nothing left to default. Errors: the model's files are not there any more.
    let create (checkpoint: Checkpoint) (options: SweepOptions) : Result<SweepConfig, LayerSkipError list> =
        let weights = checkpoint.Weights

        Fingerprint.ofModel checkpoint.Path
        |> Result.map (fun fingerprint -> {
            Model = Fingerprint.name (Path.GetFullPath checkpoint.Path)
            Fingerprint = fingerprint
            Layers = weights.Config.Layers
            Dtype = Weights.dtypeName weights
            Compute = Weights.compute weights
            Kv = Weights.kv weights
            Prefill = Prefill.name weights.Prefill
            Prompts = options.Prompts.Length
            PromptsHash = hashOfPrompts options.Prompts
            Runs = options.Runs
            MaxNewTokens = options.MaxNewTokens
            StopIds = List.ofArray options.StopIds
            ExitLayers = options.ExitLayers
            DraftLengths = options.DraftLengths
        })

    /// One JSON object, on one line.
    let json (config: SweepConfig) : string =
        JsonWrite.line (fun json ->
            json.WriteString("model", config.Model)
            json.WriteString("model_sha256", config.Fingerprint)
            json.WriteNumber("layers", config.Layers)
            json.WriteString("dtype", config.Dtype)
            config.Compute |> Option.iter (fun compute -> json.WriteString("compute", compute))
            json.WriteString("kv", config.Kv)
            json.WriteString("prefill", config.Prefill)
            json.WriteNumber("prompts", config.Prompts)
            json.WriteString("prompts_sha256", config.PromptsHash)
            json.WriteNumber("runs", config.Runs)
            json.WriteNumber("max_new_tokens", config.MaxNewTokens)
            json |> JsonWrite.ints "stop_ids" config.StopIds
            json |> JsonWrite.ints "exit_layers" config.ExitLayers
            json |> JsonWrite.ints "draft_lengths" config.DraftLengths)

    /// Throws `JsonFault` where a file has another form.
    let internal read (part: JsonPart) : SweepConfig =
        let ints (name: string) = [ for item in (part.Field name).Items -> item.Int ]

        {
            Model = (part.Field "model").Text
            Fingerprint = (part.Field "model_sha256").Text
            Layers = (part.Field "layers").Int
            Dtype = (part.Field "dtype").Text
            Compute = part.TryText "compute"
            Kv = (part.Field "kv").Text
            Prefill = (part.Field "prefill").Text
            Prompts = (part.Field "prompts").Int
            PromptsHash = (part.Field "prompts_sha256").Text
            Runs = (part.Field "runs").Int
            MaxNewTokens = (part.Field "max_new_tokens").Int
            StopIds = ints "stop_ids"
            ExitLayers = ints "exit_layers"
            DraftLengths = ints "draft_lengths"
        }
