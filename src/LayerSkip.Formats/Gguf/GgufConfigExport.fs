namespace LayerSkip

/// A configuration as llama.cpp's metadata: what `GgufConfig` reads.
[<RequireQualifiedAccess>]
module internal GgufConfigExport =
    /// What the architecture's graph in llama.cpp has no place for.
    let faults (config: LlamaConfig) : LayerSkipError list = [
        let architecture = Architecture.ofFamily config.Family
        let gguf = architecture.Gguf

        let lacks present part =
            Check.that
                (not present)
                (LayerSkipError.Unsupported(
                    $"a GGUF file of architecture {gguf.Name} with {part}",
                    "export a Hugging Face folder"
                ))

        let outside presence isThere = not (Architecture.allows presence isThere)
        let no = if config.QkvBias then "" else "no "
        yield! lacks (outside gguf.Biases.Qkv config.QkvBias) $"{no}biases of q, k and v"
        yield! lacks (outside gguf.Biases.Output config.OutputBias) "a bias of the attention's output"
        yield! lacks (outside gguf.Biases.Mlp config.MlpBias) "biases of the MLP"
        yield! lacks (config.QkNorm <> architecture.QkNorm) "or without norms of q and k, as this model"
        let windows = config.Windows |> Array.choose id |> Array.distinct
        yield! lacks (windows.Length > 1) "sliding windows of several sizes"

        match config.RopeScaling with
        | RopeScaling.Llama3 _
        | RopeScaling.Divided _ -> yield! lacks (not gguf.DividesAngles) "divided rotary angles"
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

    let private windows (gguf: GgufArchitecture) (key: string -> string) (windows: int option[]) = [
        match Array.tryPick id windows with
        | None when gguf.NamesWindow -> key "attention.sliding_window", GgufValue.Int 0L
        | None -> ()
        | Some size ->
            key "attention.sliding_window", GgufValue.Int(int64 size)

            if Array.contains None windows then
                key "attention.sliding_window_pattern", GgufValue.Bools(windows |> Array.map Option.isSome)
    ]

    /// Of a model by this name, with matrices of `dtype`.
    let metadata (name: string) (dtype: Dtype) (config: LlamaConfig) : (string * GgufValue) list =
        let gguf = (Architecture.ofFamily config.Family).Gguf
        let key name = $"{gguf.Name}.{name}"
        let count name (value: int) = key name, GgufValue.Int(int64 value)

        let fileType =
            match dtype with
            | Dtype.F16 -> 1L
            | Dtype.BF16 -> 32L
            | Dtype.F32
            | Dtype.F64 -> 0L

        [
            GgufConfig.architectureKey, GgufValue.Text gguf.Name
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
            yield! windows gguf key config.Windows
        ]

    /// How much slower each pair of dimensions turns, where no key of metadata says it.
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
