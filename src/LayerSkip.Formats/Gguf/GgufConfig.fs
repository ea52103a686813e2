namespace LayerSkip

open System
open System.Globalization

/// Reads metadata of one architecture: optional keys, with a fault for each of the wrong kind.
[<Sealed>]
type internal GgufReader(path: string, architecture: string, metadata: Map<string, GgufValue>) =
    inherit FieldReader<GgufValue>(path, ResizeArray())

    /// The key in full: "llama.block_count" of "block_count".
    member _.Key(name: string) = $"{architecture}.{name}"

    override _.TryField(key: string) = Map.tryFind key metadata

    override this.TryInt(key: string) : int option =
        let tryWhole value =
            match value with
            | GgufValue.Int number -> Some number
            // One number a layer, as some converters write counts.
            | GgufValue.Ints numbers when Set.count (set numbers) = 1 -> Some numbers[0]
            | _ -> None

        match this.TryField key with
        | Some(GgufValue.Ints _ as numbers) when (tryWhole numbers).IsNone ->
            this.Fault $"\"{key}\" differs between layers, which is not supported"
            None
        | _ ->
            match this.TryRead(key, "a whole number", tryWhole) with
            | Some number when number <> int64 (int number) ->
                this.Fault $"\"{key}\" is {number}, out of range"
                None
            | number -> Option.map int number

    /// A count of 1 to `most` under the architecture's own key; without a fallback it must be there.
    member this.Count(name: string, ?fallback: int, ?most: int) : int =
        this.Size(this.Key name, ?fallback = fallback, ?most = most)

    /// A float32 is read as the decimal that it was written for: 1e-5, not 9.99999974738e-06.
    member this.Float(name: string, fallback: float) : float =
        let read value =
            match value with
            | GgufValue.Float value when float (float32 value) = value ->
                let shortest = (float32 value).ToString("R", CultureInfo.InvariantCulture)
                Some(Double.Parse(shortest, CultureInfo.InvariantCulture))
            | GgufValue.Float value -> Some value
            | GgufValue.Int value -> Some(float value)
            | _ -> None

        this.TryRead(this.Key name, "a number", read) |> Option.defaultValue fallback

    /// A text under a key in full.
    member this.TryText(key: string) : string option = this.TryRead(key, "a text", GgufValue.tryText)

/// A decoder's configuration from a GGUF file's metadata and the names of its tensors.
[<RequireQualifiedAccess>]
module internal GgufConfig =
    /// The one key that every file must have.
    let architectureKey = "general.architecture"

    /// llama.cpp's number of a mix of formats.
    let fileTypeKey = "general.file_type"

    /// Keys of our own, which other engines pass over: the exit layer and draft length that a model recommends.
    let exitKey, draftKey = "layerskip.exit_layer", "layerskip.draft_length"

    let private scaling (reader: GgufReader) (context: int) : RopeScaling =
        let factor () = reader.Float("rope.scaling.factor", 1.0)

        match reader.TryText(reader.Key "rope.scaling.type") with
        | None
        | Some "none" -> RopeScaling.Default
        | Some "linear" -> RopeScaling.Linear(factor ())
        | Some "yarn" ->
            let factor = factor ()

            RopeScaling.Yarn {
                Factor = factor
                Original = reader.Count("rope.scaling.original_context_length", context)
                BetaFast = reader.Float("rope.scaling.yarn_beta_fast", 32.0)
                BetaSlow = reader.Float("rope.scaling.yarn_beta_slow", 1.0)
                // llama.cpp multiplies the file's factor by YaRN's own.
                AttentionFactor =
                    reader.Float("rope.scaling.attn_factor", 1.0) * RopeScaling.yarnAttention 1.0 factor
                Truncate = true
            }
        | Some other ->
            reader.Fault $"rope scaling \"{other}\" is not supported; none, linear and yarn are"
            RopeScaling.Default

    /// The size of a head, which keys and values must share and rotate whole.
    let private headDim (reader: GgufReader) hidden heads =
        let dim = reader.Count("attention.key_length", hidden / heads)

        for name in [ "attention.value_length"; "rope.dimension_count" ] do
            let other = reader.Count(name, dim)

            if other <> dim then
                reader.Fault
                    $"\"{reader.Key name}\" is {other}, only the head's own size, {dim}, is supported"

        dim

    /// "float32" and its like, or ggml's name of a mix; of a file that names none the format that most values have.
    let private storedDtype (reader: GgufReader) (tensors: Map<string, int64[] * string>) =
        // llama.cpp's enum llama_ftype: what most tensors have, and which mix of others goes with it.
        let formats =
            Map [
                yield! [ 0, "F32"; 1, "F16"; 32, "BF16" ]
                yield! [
                    2, "Q4_0"
                    3, "Q4_1"
                    7, "Q8_0"
                    8, "Q5_0"
                    9, "Q5_1"
                    25, "IQ4_NL"
                    30, "IQ4_XS"
                ]
                yield! [
                    10, "Q2_K"
                    21, "Q2_K_S"
                    11, "Q3_K_S"
                    12, "Q3_K_M"
                    13, "Q3_K_L"
                    14, "Q4_K_S"
                ]
                yield! [ 15, "Q4_K_M"; 16, "Q5_K_S"; 17, "Q5_K_M"; 18, "Q6_K" ]
            ]

        reader.TryInt fileTypeKey
        |> Option.bind formats.TryFind
        |> Option.orElseWith (fun () ->
            tensors.Values
            |> Seq.filter (fun (shape, _) -> shape.Length > 1)
            |> Seq.groupBy snd
            |> Seq.map (fun (format, found) ->
                format, found |> Seq.sumBy (fst >> Array.fold (fun size dim -> size * float dim) 1.0))
            |> Seq.sortByDescending snd
            |> Seq.tryHead
            |> Option.map fst)
        |> Option.map (fun format ->
            match SafetensorsHeader.dtype format with
            | Some dtype -> Dtype.torchName dtype
            | None -> format)

    /// One window, for the layers that the pattern marks, or for all. llama.cpp has the keys for other architectures and
    /// ignores them in these; our own export writes them.
    let private windows (reader: GgufReader) layers =
        let pattern = reader.Key "attention.sliding_window_pattern"

        match reader.TryInt(reader.Key "attention.sliding_window"), reader.TryField pattern with
        | (None | Some 0), _ -> Array.create layers None
        | Some size, _ when size < 0 ->
            reader.Fault $"sliding_window is {size}, it must be at least 1"
            [||]
        | window, None -> Array.create layers window
        | window, Some(GgufValue.Bools marks) when marks.Length = layers ->
            marks |> Array.map (fun windowed -> if windowed then window else None)
        | _, Some _ ->
            reader.Fault $"\"{pattern}\" must hold {layers} flags"
            [||]

    let private vocabulary (reader: GgufReader) (tensors: Map<string, int64[] * string>) =
        let key = reader.Key "vocab_size"

        match
            reader.TryField key,
            reader.TryField "tokenizer.ggml.tokens",
            tensors.TryFind "model.embed_tokens.weight"
        with
        | Some _, _, _ -> reader.Count "vocab_size"
        | None, Some(GgufValue.Texts tokens), _ when tokens.Length > 0 -> tokens.Length
        | None, _, Some([| rows; _ |], _) when 0L < rows && rows <= 2147483647L -> int rows
        | None, _, _ ->
            reader.Fault $"neither \"{key}\" nor \"tokenizer.ggml.tokens\" says how many tokens there are"
            1

    let private keys =
        Map [
            "hidden_size", "embedding_length"
            "intermediate_size", "feed_forward_length"
            "num_hidden_layers", "block_count"
            "num_attention_heads", "attention.head_count"
            "num_key_value_heads", "attention.head_count_kv"
            "head_dim", "attention.key_length"
            "max_position_embeddings", "context_length"
            "rms_norm_eps", "attention.layer_norm_rms_epsilon"
            "rope_theta", "rope.freq_base"
            "factor", "rope.scaling.factor"
            "original_max_position_embeddings", "rope.scaling.original_context_length"
            "beta_fast", "rope.scaling.yarn_beta_fast"
            "beta_slow", "rope.scaling.yarn_beta_slow"
            "attention_factor", "rope.scaling.attn_factor"
        ]

    /// The key of what config.json calls so.
    let named (family: Family) (field: string) : string =
        match field with
        | "divisor" -> "rope_freqs.weight"
        | field ->
            $"{(Architecture.ofFamily family).Gguf.Name}.{keys |> Map.tryFind field |> Option.defaultValue field}"

    /// The architecture that a file names.
    let architecture
        (path: string)
        (metadata: Map<string, GgufValue>)
        : Result<Architecture, LayerSkipError list> =
        let names = Architecture.all |> List.map _.Gguf.Name |> List.distinct

        match Map.tryFind architectureKey metadata with
        | Some(GgufValue.Text name) ->
            match Architecture.tryGguf name with
            | Some found -> Ok found
            | None ->
                Check.unsupported
                    $"{path}: architecture \"{name}\""
                    $"architectures {Architecture.listed names}"
        | Some _
        | None -> Check.bad path $"\"{architectureKey}\" is missing from the metadata"

    /// Of a file's architecture; `tensors`: shape and format of each, by Hugging Face's name. Whether there are
    /// biases, norms of q and k, and a head of its own is told by the tensors that are there. All faults are in the
    /// error, under the file's own keys.
    let ofMetadata
        (path: string)
        (metadata: Map<string, GgufValue>)
        (tensors: Map<string, int64[] * string>)
        (architecture: Architecture)
        : Result<LlamaConfig, LayerSkipError list> =
        let reader = GgufReader(path, architecture.Gguf.Name, metadata)
        let hidden = reader.Count "embedding_length"
        let layers = reader.Count("block_count", most = ConfigCheck.mostLayers)
        let heads = reader.Count "attention.head_count"
        let kvHeads = reader.Count("attention.head_count_kv", heads)
        let context = reader.Count "context_length"

        let epsilon = reader.Key "attention.layer_norm_rms_epsilon"

        if (reader.TryField epsilon).IsNone then
            reader.Fault $"\"{epsilon}\" is missing"

        let experts = reader.TryInt(reader.Key "expert_count") |> Option.defaultValue 0

        if experts > 0 then
            reader.Fault $"a mixture of {experts} experts is not supported"

        let vocabulary = vocabulary reader tensors

        let tokenId key =
            match reader.TryInt key with
            | Some id when id >= vocabulary ->
                reader.Fault
                    $"\"{key}\" is {id}, which is outside the vocabulary; ids run from 0 to {vocabulary - 1}"
                None
            | Some id when id >= 0 -> Some id
            | _ -> None

        let stops =
            StopTokens.ofMetadata vocabulary (List.choose tokenId StopTokens.keys) metadata
            |> Result.defaultWith (fun fault ->
                reader.Fault fault
                [||])

        if tensors.ContainsKey "rope_factors_long.weight" then
            reader.Fault "rope scaling by tables of factors (longrope) is not supported"

        let has part = tensors.ContainsKey(Architecture.fileName architecture $"model.layers.0.{part}")

        let config = {
            Family = architecture.Family
            Vocabulary = vocabulary
            Hidden = hidden
            Intermediate = reader.Count "feed_forward_length"
            Layers = layers
            Heads = heads
            KvHeads = kvHeads
            HeadDim = headDim reader hidden heads
            Context = context
            NormEps = reader.Float("attention.layer_norm_rms_epsilon", 1e-5)
            RopeTheta = reader.Float("rope.freq_base", 10000.0)
            RopeScaling = scaling reader context
            Windows = windows reader layers
            QkvBias = has "self_attn.q_proj.bias"
            OutputBias = has "self_attn.o_proj.bias"
            MlpBias = has "mlp.up_proj.bias"
            QkNorm = has "self_attn.q_norm.weight"
            TiedHead = not (tensors.ContainsKey "lm_head.weight")
            Bos = tokenId "tokenizer.ggml.bos_token_id"
            StopIds = stops
            StoredDtype = storedDtype reader tensors
        }

        Check.all (reader.Faults @ ConfigCheck.faults (named architecture.Family) path config) config
