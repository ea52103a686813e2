namespace LayerSkip

open System
open System.IO
open TorchSharp

/// A model as llama.cpp loads it.
[<RequireQualifiedAccess>]
module internal GgufExport =
    /// The configuration under llama.cpp's architecture: a Mistral is a llama there.
    let private underArchitecture (config: LlamaConfig) : LlamaConfig =
        match config.Family with
        | Family.Mistral -> { config with Family = Family.Llama }
        | Family.Llama
        | Family.Qwen2
        | Family.Qwen3 -> config

    /// What the architecture's graph in llama.cpp has no place for.
    let private faults (config: LlamaConfig) = [
        let name = Family.name config.Family

        let lacks present part =
            Check.that
                (not present)
                (LayerSkipError.Unsupported(
                    $"a GGUF file of architecture {name} with {part}",
                    "export a Hugging Face folder"
                ))

        let isLlama = config.Family = Family.Llama
        yield! lacks (config.QkvBias && config.Family = Family.Qwen3) "biases of q, k and v"
        yield! lacks (not config.QkvBias && config.Family = Family.Qwen2) "no biases of q, k and v"
        yield! lacks (config.OutputBias && not isLlama) "a bias of the attention's output"
        yield! lacks (config.MlpBias && not isLlama) "biases of the MLP"
        yield!
            lacks
                (config.QkNorm <> (config.Family = Family.Qwen3))
                "or without norms of q and k, as this model"
        let windows = config.Windows |> Array.choose id |> Array.distinct
        yield! lacks (windows.Length > 1) "sliding windows of several sizes"

        match config.RopeScaling with
        | RopeScaling.Llama3 _
        | RopeScaling.Divided _ -> yield! lacks (not isLlama) "divided rotary angles"
        | RopeScaling.Yarn yarn -> yield! lacks (not yarn.Truncate) "a YaRN range that is not rounded"
        | RopeScaling.Default
        | RopeScaling.Dynamic _
        | RopeScaling.Linear _ -> ()
    ]

    let private scaling (key: string -> string) (scaling: RopeScaling) =
        let number name value = key ("rope.scaling." + name), GgufValue.Float value

        match scaling with
        // llama.cpp has no word for what begins where the context ends.
        | RopeScaling.Default
        | RopeScaling.Dynamic _
        // A tensor holds these.
        | RopeScaling.Llama3 _
        | RopeScaling.Divided _ -> []
        | RopeScaling.Linear factor -> [
            key "rope.scaling.type", GgufValue.Text "linear"
            number "factor" factor
          ]
        | RopeScaling.Yarn yarn ->
            // llama.cpp multiplies by YaRN's own factor.
            let own =
                if yarn.Factor <= 1.0 then
                    1.0
                else
                    0.1 * log yarn.Factor + 1.0

            [
                key "rope.scaling.type", GgufValue.Text "yarn"
                number "factor" yarn.Factor
                key "rope.scaling.original_context_length", GgufValue.Int(int64 yarn.Original)
                number "yarn_beta_fast" yarn.BetaFast
                number "yarn_beta_slow" yarn.BetaSlow
                if abs (yarn.AttentionFactor / own - 1.0) > 1e-7 then
                    number "attn_factor" (yarn.AttentionFactor / own)
            ]

    let private windows (key: string -> string) (windows: int option[]) = [
        match Array.tryPick id windows with
        | None -> ()
        | Some size ->
            key "attention.sliding_window", GgufValue.Int(int64 size)

            if Array.contains None windows then
                key "attention.sliding_window_pattern", GgufValue.Bools(windows |> Array.map Option.isSome)
    ]

    let private metadata (name: string) (dtype: Dtype) (config: LlamaConfig) : (string * GgufValue) list =
        let architecture = Family.name config.Family
        let key name = $"{architecture}.{name}"
        let count name (value: int) = key name, GgufValue.Int(int64 value)

        let fileType =
            match dtype with
            | Dtype.F16 -> 1L
            | Dtype.BF16 -> 32L
            | Dtype.F32
            | Dtype.F64 -> 0L

        [
            "general.architecture", GgufValue.Text architecture
            "general.type", GgufValue.Text "model"
            "general.name", GgufValue.Text name
            "general.file_type", GgufValue.Int fileType
            count "vocab_size" config.Vocabulary
            count "context_length" config.Context
            count "embedding_length" config.Hidden
            count "block_count" config.Layers
            count "feed_forward_length" config.Intermediate
            count "attention.head_count" config.Heads
            count "attention.head_count_kv" config.KvHeads
            key "attention.layer_norm_rms_epsilon", GgufValue.Float config.NormEps
            if config.HeadDim <> config.Hidden / config.Heads then
                count "attention.key_length" config.HeadDim
                count "attention.value_length" config.HeadDim
            count "rope.dimension_count" config.HeadDim
            key "rope.freq_base", GgufValue.Float config.RopeTheta
            yield! scaling key config.RopeScaling
            yield! windows key config.Windows
        ]

    let private recommended (checkpoint: Checkpoint) : (string * GgufValue) list =
        match checkpoint.Recommended with
        | None -> []
        | Some(exit, length) -> [
            GgufConfig.exitKey, GgufValue.Int(int64 exit)
            GgufConfig.draftKey, GgufValue.Int(int64 length)
          ]

    /// A head's rows from two halves to pairs that rotate together, llama.cpp's order.
    let private toPairs (heads: int) (rows: Tensor) : Tensor =
        rows.view(int64 heads, 2L, rows.shape[0] / int64 heads / 2L, -1L).transpose(1L, 2L).reshape rows.shape

    let private item config dtype (name: string, tensor: Tensor) : TensorItem =
        // Norms and biases are float32.
        let dtype = if tensor.shape.Length = 1 then Dtype.F32 else dtype

        TensorWriter.item (GgufName.ggml name) tensor.shape dtype (fun () ->
            match GgufTensors.reordered config name tensor.shape with
            | Some heads -> toPairs heads tensor
            | None -> tensor.alias ())

    /// How much slower each pair of dimensions turns, where no key of metadata says it.
    let private ropeTable (config: LlamaConfig) : TensorItem list =
        match config.RopeScaling with
        | RopeScaling.Default
        | RopeScaling.Dynamic _
        | RopeScaling.Linear _
        | RopeScaling.Yarn _ -> []
        | RopeScaling.Llama3 _
        | RopeScaling.Divided _ ->
            let struct (scaled, _) = RopeAngles.frequencies config
            let struct (plain, _) = RopeAngles.frequencies { config with RopeScaling = RopeScaling.Default }

            let shape = [| int64 plain.Length |]

            [
                TensorWriter.item GgufName.ropeTable shape Dtype.F32 (fun () ->
                    Tensors.ofFloats shape (Array.map2 (/) plain scaled))
            ]

    /// A GGUF source's own metadata of its tokenizer, else what the tokenizer comes to.
    let private tokenizer (checkpoint: Checkpoint) : Result<(string * GgufValue) list, LayerSkipError list> =
        let source =
            if File.Exists checkpoint.Path then
                Gguf.readMetadata checkpoint.Path
            else
                Ok Map.empty

        let made () =
            match checkpoint.Tokenizer with
            | None -> Ok(GgufTokenizerExport.none checkpoint.Config.Bos checkpoint.StopIds)
            | Some tokenizer ->
                GgufTokenizerExport.ofTokenizer checkpoint.Config.Vocabulary checkpoint.StopIds tokenizer

        source
        |> Result.bind (fun source ->
            if source.ContainsKey "tokenizer.ggml.model" then
                Ok [
                    for KeyValue(key, value) in source do
                        if key.StartsWith("tokenizer.", StringComparison.Ordinal) then
                            key, value
                ]
            else
                made ())

    let private remarks (config: LlamaConfig) (hasTokenizer: bool) = [
        if not hasTokenizer then
            "the model has no tokenizer: llama.cpp takes and gives its ids only, and programs that try a text first refuse it"

        match Array.tryPick id config.Windows with
        | Some window when window < config.Context ->
            $"llama.cpp has no sliding window in architecture {Family.name config.Family}: past {window} tokens its texts differ from this model's"
        | Some _
        | None -> ()
    ]

    /// Writes the file; the numbers of its tensors and bytes, and what to tell the user.
    let write
        (name: string)
        (path: string)
        (checkpoint: Checkpoint)
        : Result<struct (int * int64 * string list), LayerSkipError list> =
        let weights = checkpoint.Weights
        let config = underArchitecture checkpoint.Config

        Check.both (Check.all (faults config) ()) (tokenizer checkpoint)
        |> Result.bind (fun ((), tokenizer) ->
            let items = List.map (item config weights.Dtype) (Weights.named weights) @ ropeTable config

            let metadata =
                metadata name weights.Dtype config
                @ recommended checkpoint
                @ StopTokens.metadata checkpoint.StopIds
                @ tokenizer

            GgufWriter.write path metadata items
            |> Result.map (fun bytes ->
                struct (items.Length, bytes, remarks config checkpoint.Tokenizer.IsSome)))
