namespace LayerSkip

/// A configuration as llama.cpp's metadata: what `GgufConfig` reads.
[<RequireQualifiedAccess>]
module internal GgufConfigExport =
    /// What the architecture's graph in llama.cpp has no place for. Unsupported, one for each part: the model could
    /// be written, and llama.cpp would compute something else.
    let faults (config: LlamaConfig) : LayerSkipError list =
        let gguf = (Architecture.ofFamily config.Family).Gguf
        let no = if config.QkvBias then "" else "no "
        let windows = config.Windows |> Array.choose id |> Array.distinct

        let parts = [
            if not (Architecture.allows gguf.Biases.Qkv config.QkvBias) then
                $"{no}biases of q, k and v"
            yield! Architecture.unlike gguf.Biases config
            if windows.Length > 1 then
                "sliding windows of several sizes"
            match config.RopeScaling with
            | RopeScaling.Llama3 _
            | RopeScaling.Divided _ when not gguf.DividesAngles -> "divided rotary angles"
            | RopeScaling.Yarn { Truncate = false } -> "a YaRN range that is not rounded"
            | _ -> ()
        ]

        [
            for part in parts do
                let what = $"a GGUF file of architecture {gguf.Name} with {part}"
                LayerSkipError.Unsupported(what, "export a Hugging Face folder")
        ]

    /// llama.cpp has no word for what begins where the context ends (dynamic), and a tensor holds divisors.
    let private scaling (family: Family) (scaling: RopeScaling) =
        let numbers kind own = [
            GgufConfig.named family "rope.scaling.type", GgufValue.Text kind

            for name, value in RopeScaling.numbers scaling do
                let key = GgufConfig.named family name

                match name with
                | name when name = RopeScaling.originalName -> key, GgufValue.Int(int64 value)
                // llama.cpp multiplies by YaRN's own factor.
                | "attention_factor" when abs (value / own - 1.0) <= 1e-7 -> ()
                | "attention_factor" -> key, GgufValue.Float(value / own)
                | _ -> key, GgufValue.Float value
        ]

        match scaling with
        | RopeScaling.Linear _ -> numbers "linear" 1.0
        | RopeScaling.Yarn yarn -> numbers "yarn" (RopeScaling.yarnAttention 1.0 yarn.Factor)
        | RopeScaling.Default
        | RopeScaling.Dynamic _
        | RopeScaling.Llama3 _
        | RopeScaling.Divided _ -> []

    let private windows (gguf: GgufArchitecture) (key: string -> string) (windows: int option[]) = [
        match Array.tryPick id windows with
        | None when gguf.NamesWindow -> key "attention.sliding_window", GgufValue.Int 0L
        | None -> ()
        | Some size ->
            key "attention.sliding_window", GgufValue.Int(int64 size)

            if Array.contains None windows then
                key "attention.sliding_window_pattern", GgufValue.Bools(windows |> Array.map Option.isSome)
    ]

    /// llama.cpp's number of files with matrices of a dtype.
    let fileType (dtype: Dtype) : int64 =
        match dtype with
        | Dtype.F16 -> 1L
        | Dtype.BF16 -> 32L
        | Dtype.F32
        | Dtype.F64 -> 0L

    /// Of a model by this name, in a file of llama.cpp's number `fileType`, where it has one. Keys that say what llama.cpp takes for granted
    /// are left out.
    let metadata (name: string) (fileType: int64 option) (config: LlamaConfig) : (string * GgufValue) list =
        let gguf = (Architecture.ofFamily config.Family).Gguf
        let key name = $"{gguf.Name}.{name}"
        let count name (value: int) = key name, GgufValue.Int(int64 value)

        [
            GgufConfig.architectureKey, GgufValue.Text gguf.Name
            "general.type", GgufValue.Text "model"
            "general.name", GgufValue.Text name
            for number in Option.toList fileType do
                GgufConfig.fileTypeKey, GgufValue.Int number
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
            yield! scaling config.Family config.RopeScaling
            yield! windows gguf key config.Windows
        ]

    /// How much slower each pair of dimensions turns, where no key of metadata says it. [headDim / 2]: the tensor
    /// `rope_freqs.weight`.
    let divisors (config: LlamaConfig) : float[] option =
        match config.RopeScaling with
        | RopeScaling.Default
        | RopeScaling.Dynamic _
        | RopeScaling.Linear _
        | RopeScaling.Yarn _ -> None
        | RopeScaling.Llama3 _
        | RopeScaling.Divided _ ->
            let struct (scaled, _) = RopeAngles.frequencies config
            let struct (plain, _) = RopeAngles.frequencies { config with RopeScaling = RopeScaling.Default }
            Some(Array.map2 (/) plain scaled)

    /// What a model recommends: exit layer and draft length.
    let recommended (exit: int, length: int) : (string * GgufValue) list = [
        GgufConfig.exitKey, GgufValue.Int(int64 exit)
        GgufConfig.draftKey, GgufValue.Int(int64 length)
    ]

    /// What llama.cpp does otherwise with a model.
    let remarks (config: LlamaConfig) : string list = [
        match Array.tryPick id config.Windows with
        | Some window when window < config.Context ->
            $"llama.cpp has no sliding window in architecture {(Architecture.ofFamily config.Family).Gguf.Name}: past {window} tokens its texts differ from this model's"
        | Some _
        | None -> ()
    ]
