namespace LayerSkip.Server

open System
open System.Text.Json
open LayerSkip

/// What requests for completions and for chat completions have in common.
[<NoEquality; NoComparison>]
type WritingRequest = {
    /// None: any.
    Model: string option
    /// None: what the endpoint takes.
    MaxTokens: int option
    Temperature: float
    TopP: float
    TopK: int
    MinP: float
    PresencePenalty: float
    FrequencyPenalty: float
    RepetitionPenalty: float
    /// Ids with what is added to their logits.
    LogitBias: (int * float) list
    StopTexts: string list
    /// Ids that end the text beside the model's own.
    StopIds: int list
    IgnoreEos: bool
    ShowSpecial: bool
    /// None: another each time.
    Seed: int64 option
    Format: TextFormat
    Drafting: StrategyChoice
    /// Texts for each prompt.
    Count: int
    IsStreamed: bool
    /// Whether a last chunk has the usage.
    IncludesUsage: bool
    /// Whether each token is told with where it comes from: ours, for the playground.
    TellsOrigins: bool
}

/// Reads the fields that both kinds of completion have.
[<RequireQualifiedAccess>]
module internal WritingFields =
    let private mostStops, mostCount = 64, 64

    // As OpenAI has it: at 100 a token is as good as banned, or chosen.
    let private mostBias = 100.0

    let private stops (reader: RequestReader) : string list =
        match reader.Read("stop", "a text or a list of texts", RequestReader.TryTexts) with
        | Some texts when texts.Length > mostStops ->
            reader.Fault("stop", $"has {texts.Length} texts, it may have {mostStops}")
            []
        | Some texts when List.contains "" texts ->
            reader.Fault("stop", "has an empty text; each must have a character or more")
            []
        | texts -> defaultArg texts []

    let private logitBias (reader: RequestReader) : (int * float) list =
        match reader.Object "logit_bias" with
        | None -> []
        | Some biases ->
            biases.Names
            |> List.choose (fun name ->
                match Number.tryWhole name with
                | Some id -> biases.Real(name, -mostBias, mostBias) |> Option.map (fun bias -> id, bias)
                | None ->
                    reader.Fault("logit_bias", "must have token ids as names")
                    None)

    let private includesUsage (reader: RequestReader) isStreamed : bool =
        match reader.Object "stream_options" with
        | Some options ->
            if not isStreamed then
                reader.Fault("stream_options", "goes with \"stream\": true")

            options.Flag "include_usage"
        | None -> false

    let private count (reader: RequestReader) = reader.Whole("n", 1, mostCount) |> Option.defaultValue 1

    /// Reads them; `maxTokens` are the names of that limit, the one that counts first.
    let read (maxTokens: string list) (least: int) (reader: RequestReader) : WritingRequest =
        let real name least most fallback = reader.Real(name, least, most) |> Option.defaultValue fallback

        let isStreamed = reader.Flag "stream"
        let limits = maxTokens |> List.map (fun name -> reader.Whole(name, least, Int32.MaxValue))

        {
            Model = reader.Text "model"
            MaxTokens = limits |> List.tryPick id
            Temperature = real "temperature" 0.0 100.0 1.0
            TopP = real "top_p" 0.0 1.0 1.0
            // vLLM's clients say -1 for all.
            TopK = reader.Whole("top_k", -1, Int32.MaxValue) |> Option.map (max 0) |> Option.defaultValue 0
            MinP = real "min_p" 0.0 1.0 0.0
            PresencePenalty = real "presence_penalty" -2.0 2.0 0.0
            FrequencyPenalty = real "frequency_penalty" -2.0 2.0 0.0
            RepetitionPenalty = real "repetition_penalty" 0.01 100.0 1.0
            LogitBias = logitBias reader
            StopTexts = stops reader
            StopIds =
                reader.Read("stop_token_ids", "a list of token ids", RequestReader.TryIds)
                |> Option.map List.ofArray
                |> Option.defaultValue []
            IgnoreEos = reader.Flag "ignore_eos"
            ShowSpecial = not (reader.Flag("skip_special_tokens", true))
            Seed = reader.Long("seed", Int64.MinValue, Int64.MaxValue)
            Format = FormatFields.read reader
            Drafting = DraftingFields.read reader
            Count = count reader
            IsStreamed = isStreamed
            IncludesUsage = includesUsage reader isStreamed
            TellsOrigins = reader.Flag "origins"
        }
