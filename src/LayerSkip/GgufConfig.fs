namespace LayerSkip

open System
open System.Globalization

/// Reading metadata of one architecture: optional keys, with a fault for each of the wrong kind.
[<Sealed>]
type internal GgufReader(path: string, architecture: string, metadata: Map<string, GgufValue>) =
    let faults = ResizeArray<LayerSkipError>()

    member _.Faults = List.ofSeq faults
    member _.Fault(text: string) = faults.Add(LayerSkipError.BadFile(path, text))

    /// The key in full: "llama.block_count" of "block_count".
    member _.Key(name: string) = $"{architecture}.{name}"

    member _.Find(key: string) = Map.tryFind key metadata

    member this.TryInt(key: string) : int option =
        let whole number =
            if number < -2147483648L || number > 2147483647L then
                this.Fault $"\"{key}\" is {number}, out of range"
                None
            else
                Some(int number)

        match this.Find key with
        | None -> None
        | Some(GgufValue.Int number) -> whole number
        // One number a layer, as some converters write counts.
        | Some(GgufValue.Ints numbers) when numbers.Length > 0 && Array.forall ((=) numbers[0]) numbers ->
            whole numbers[0]
        | Some(GgufValue.Ints _) ->
            this.Fault $"\"{key}\" differs between layers, which is not supported"
            None
        | Some _ ->
            this.Fault $"\"{key}\" must be a whole number"
            None

    /// A count of at least 1; without a fallback it must be there.
    member this.Size(name: string, fallback: int option) : int =
        let key = this.Key name

        match this.Find key, this.TryInt key, fallback with
        | None, _, Some fallback -> fallback
        | None, _, None ->
            this.Fault $"\"{key}\" is missing"
            1
        | Some _, Some size, _ when size >= 1 -> size
        | Some _, Some size, _ ->
            this.Fault $"\"{key}\" is {size}, it must be at least 1"
            1
        | Some _, None, _ -> 1

    /// A float32 is read as the decimal that it was written for: 1e-5, not 9.99999974738e-06.
    member this.TryFloat(name: string) : float option =
        let key = this.Key name

        match this.Find key with
        | None -> None
        | Some(GgufValue.Float value) when float (float32 value) = value ->
            let shortest = (float32 value).ToString("R", CultureInfo.InvariantCulture)
            Some(Double.Parse(shortest, CultureInfo.InvariantCulture))
        | Some(GgufValue.Float value) -> Some value
        | Some(GgufValue.Int value) -> Some(float value)
        | Some _ ->
            this.Fault $"\"{key}\" must be a number"
            None

    /// A finite number above 0, `fallback` where there is none.
    member this.Positive(name: string, fallback: float) : float =
        match this.TryFloat name with
        | None -> fallback
        | Some value when value > 0.0 && Double.IsFinite value -> value
        | Some value ->
            this.Fault $"\"{this.Key name}\" is {value}, it must be above 0"
            fallback

    member this.TryText(key: string) : string option =
        match this.Find key with
        | None -> None
        | Some(GgufValue.Text text) -> Some text
        | Some _ ->
            this.Fault $"\"{key}\" must be a text"
            None

/// A decoder's configuration from a GGUF file's metadata and the names of its tensors.
[<RequireQualifiedAccess>]
module internal GgufConfig =
    let architectureKey = "general.architecture"

    let private scaling (reader: GgufReader) (context: int) : RopeScaling =
        let factor () =
            match reader.Positive("rope.scaling.factor", 1.0) with
            | factor when factor < 1.0 ->
                reader.Fault $"rope.scaling.factor is {factor}, it must be at least 1"
                1.0
            | factor -> factor

        match reader.TryText(reader.Key "rope.scaling.type") with
        | None
        | Some "none" -> RopeScaling.Default
        | Some "linear" -> RopeScaling.Linear(factor ())
        | Some "yarn" ->
            let factor = factor ()

            RopeScaling.Yarn {
                Factor = factor
                Original = reader.Size("rope.scaling.original_context_length", Some context)
                BetaFast = reader.Positive("rope.scaling.yarn_beta_fast", 32.0)
                BetaSlow = reader.Positive("rope.scaling.yarn_beta_slow", 1.0)
                // llama.cpp multiplies the file's factor by YaRN's own.
                AttentionFactor =
                    reader.Positive("rope.scaling.attn_factor", 1.0)
                    * (if factor <= 1.0 then 1.0 else 0.1 * log factor + 1.0)
                Truncate = true
            }
        | Some other ->
            reader.Fault $"rope scaling \"{other}\" is not supported; none, linear and yarn are"
            RopeScaling.Default

    /// The size of a head, which keys and values must share and rotate whole.
    let private headDim (reader: GgufReader) hidden heads =
        let dim = reader.Size("attention.key_length", Some(hidden / heads))

        for name in [ "attention.value_length"; "rope.dimension_count" ] do
            let other = reader.Size(name, Some dim)

            if other <> dim then
                reader.Fault
                    $"\"{reader.Key name}\" is {other}, only the head's own size, {dim}, is supported"

        if dim < 1 || dim % 2 <> 0 then
            reader.Fault $"a head of {dim} values is not supported, it must be even"

        dim

    /// "float32" and its like, or ggml's name where most weights are quantised.
    let private storedDtype (reader: GgufReader) (embedding: string option) =
        let ofFormat format =
            match format with
            | "F32" -> "float32"
            | "F16" -> "float16"
            | "BF16" -> "bfloat16"
            | quantised -> quantised

        match reader.TryInt "general.file_type" with
        | Some 0 -> Some "float32"
        | Some 1 -> Some "float16"
        | Some 2 -> Some "Q4_0"
        | Some 3 -> Some "Q4_1"
        | Some 7 -> Some "Q8_0"
        | Some 32 -> Some "bfloat16"
        | _ -> Option.map ofFormat embedding

    /// One window, for the layers that the pattern marks, or for all. llama.cpp has the keys for other architectures and
    /// ignores them in these; our own export writes them.
    let private windows (reader: GgufReader) layers =
        let layers = min layers 100_000
        let pattern = reader.Key "attention.sliding_window_pattern"

        match reader.TryInt(reader.Key "attention.sliding_window"), reader.Find pattern with
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
            reader.Find key, reader.Find "tokenizer.ggml.tokens", tensors.TryFind "model.embed_tokens.weight"
        with
        | Some _, _, _ -> reader.Size("vocab_size", None)
        | None, Some(GgufValue.Texts tokens), _ when tokens.Length > 0 -> tokens.Length
        | None, _, Some([| rows; _ |], _) when 0L < rows && rows <= 2147483647L -> int rows
        | None, _, _ ->
            reader.Fault $"neither \"{key}\" nor \"tokenizer.ggml.tokens\" says how many tokens there are"
            1

    let private ofFamily path metadata (tensors: Map<string, int64[] * string>) family =
        let reader = GgufReader(path, Family.name family, metadata)
        let hidden, layers = reader.Size("embedding_length", None), reader.Size("block_count", None)
        let heads = reader.Size("attention.head_count", None)
        let kvHeads = reader.Size("attention.head_count_kv", Some heads)
        let context = reader.Size("context_length", None)

        if heads % kvHeads <> 0 then
            reader.Fault $"head_count_kv is {kvHeads}, it must divide head_count, {heads}"

        let epsilon = reader.Key "attention.layer_norm_rms_epsilon"

        if (reader.Find epsilon).IsNone then
            reader.Fault $"\"{epsilon}\" is missing"

        let experts = reader.TryInt(reader.Key "expert_count") |> Option.defaultValue 0

        if experts > 0 then
            reader.Fault $"a mixture of {experts} experts is not supported"

        if (reader.TryInt "split.count" |> Option.defaultValue 1) > 1 then
            reader.Fault "one of several split files, which are not supported; merge them into one"

        let tokenId name =
            match reader.TryInt $"tokenizer.ggml.{name}_token_id" with
            | Some id when id >= 0 -> Some id
            | _ -> None

        let has part = tensors.ContainsKey $"model.layers.0.{part}"

        let config = {
            Family = family
            Vocabulary = vocabulary reader tensors
            Hidden = hidden
            Intermediate = reader.Size("feed_forward_length", None)
            Layers = layers
            Heads = heads
            KvHeads = kvHeads
            HeadDim = headDim reader hidden heads
            Context = context
            NormEps = reader.Positive("attention.layer_norm_rms_epsilon", 1e-5)
            RopeTheta = reader.Positive("rope.freq_base", 10000.0)
            RopeScaling = scaling reader context
            Windows = windows reader layers
            QkvBias = has "self_attn.q_proj.bias"
            OutputBias = has "self_attn.o_proj.bias"
            MlpBias = has "mlp.up_proj.bias"
            QkNorm = has "self_attn.q_norm.weight"
            TiedHead = not (tensors.ContainsKey "lm_head.weight")
            Bos = tokenId "bos"
            StopIds = [| tokenId "eos"; tokenId "eot" |] |> Array.choose id |> Array.distinct
            StoredDtype = storedDtype reader (tensors.TryFind "model.embed_tokens.weight" |> Option.map snd)
        }

        // More layers than a file can name is a damaged count; nothing may be allocated by it.
        if layers > 100_000 then
            reader.Fault $"block_count is {layers}, no model has so many layers"

        Check.all reader.Faults config

    /// `tensors`: shape and format of each, by Hugging Face's name.
    let ofMetadata
        (path: string)
        (metadata: Map<string, GgufValue>)
        (tensors: Map<string, int64[] * string>)
        =
        let families = "architectures llama, qwen2 and qwen3 are"

        match Map.tryFind architectureKey metadata with
        | Some(GgufValue.Text "llama") -> ofFamily path metadata tensors Family.Llama
        | Some(GgufValue.Text "qwen2") -> ofFamily path metadata tensors Family.Qwen2
        | Some(GgufValue.Text "qwen3") -> ofFamily path metadata tensors Family.Qwen3
        | Some(GgufValue.Text other) ->
            Error [ LayerSkipError.Unsupported($"{path}: architecture \"{other}\"", families) ]
        | Some _
        | None ->
            Error [
                LayerSkipError.BadFile(path, $"\"{architectureKey}\" is missing from the metadata")
            ]
