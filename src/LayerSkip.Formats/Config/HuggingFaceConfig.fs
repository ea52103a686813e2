namespace LayerSkip

open System
open System.Globalization
open System.IO
open System.Text.Json

/// config.json as transformers reads it, in the spelling of its version 4, which version 5 reads too.
[<RequireQualifiedAccess>]
module internal HuggingFaceConfig =
    /// The configuration with divisors by their name; an error where transformers has no name for what it says.
    let expressible (config: LlamaConfig) : Result<LlamaConfig, LayerSkipError list> =
        let without part =
            LayerSkipError.Unsupported(
                $"a Hugging Face {Family.name config.Family} with {part}",
                "export a GGUF file"
            )

        let architecture = Architecture.ofFamily config.Family
        let biases = architecture.Biases
        let windows = Array.distinct config.Windows

        let hasWindows =
            match architecture.Windows with
            | WindowFields.Nowhere -> windows = [| None |]
            | WindowFields.Everywhere -> windows.Length = 1
            | WindowFields.ByLayer -> (Array.choose id windows).Length < 2

        let hasQkvBias =
            // One field says both.
            if biases.Qkv = Presence.Either then
                config.QkvBias = config.OutputBias
            else
                Architecture.allows biases.Qkv config.QkvBias

        let scaling =
            match RopeAngles.named config with
            | RopeScaling.Divided _ -> None
            | scaling -> Some scaling

        let faults = [
            yield! Check.that hasQkvBias (without "biases of q, k and v as in this model")
            yield!
                Check.that
                    (Architecture.allows biases.Output config.OutputBias)
                    (without "a bias of the attention's output")
            yield! Check.that (Architecture.allows biases.Mlp config.MlpBias) (without "biases of the MLP")
            yield!
                Check.that
                    (config.QkNorm = architecture.QkNorm)
                    (without "or without norms of q and k, as this model")
            yield! Check.that hasWindows (without "sliding windows as in this model")
            match scaling |> Option.bind RopeScaling.tryType with
            | None -> without "these divisors of rotary angles"
            | Some kind when not (List.contains kind architecture.RopeTypes) ->
                without $"rotary angles of type {kind}"
            | Some _ -> ()
        ]

        Check.all faults { config with RopeScaling = defaultArg scaling RopeScaling.Default }

    let private torchDtype (dtype: Dtype) =
        match dtype with
        | Dtype.F64 -> "float64"
        | Dtype.F32 -> "float32"
        | Dtype.F16 -> "float16"
        | Dtype.BF16 -> "bfloat16"

    let private intOrNull (json: Utf8JsonWriter) (name: string) (value: int option) =
        match value with
        | Some value -> json.WriteNumber(name, value)
        | None -> json.WriteNull name

    /// A number, a list, or null: as transformers has it.
    let ids (json: Utf8JsonWriter) (name: string) (values: int[]) : unit =
        match values with
        | [||]
        | [| _ |] -> intOrNull json name (Array.tryHead values)
        | values ->
            json.WriteStartArray name
            Array.iter (fun (value: int) -> json.WriteNumberValue value) values
            json.WriteEndArray()

    /// transformers warns of a whole number where it expects a float: 10000.0.
    let private float (json: Utf8JsonWriter) (name: string) (value: float) =
        let digits = value.ToString("R", CultureInfo.InvariantCulture)
        let isWhole = digits |> Seq.forall (fun c -> Char.IsAsciiDigit c || c = '-')
        json.WritePropertyName name
        json.WriteRawValue(if isWhole then digits + ".0" else digits)

    let private scaling (json: Utf8JsonWriter) (scaling: RopeScaling) =
        let object (kind: string) write =
            json.WriteStartObject "rope_scaling"
            json.WriteString("rope_type", kind)
            write ()
            json.WriteEndObject()

        match scaling with
        | RopeScaling.Default
        | RopeScaling.Divided _ -> json.WriteNull "rope_scaling"
        | RopeScaling.Dynamic(factor, original) ->
            object "dynamic" (fun () ->
                float json "factor" factor

                original
                |> Option.iter (fun original ->
                    json.WriteNumber("original_max_position_embeddings", original)))
        | RopeScaling.Linear factor -> object "linear" (fun () -> float json "factor" factor)
        | RopeScaling.Llama3(factor, low, high, original) ->
            object "llama3" (fun () ->
                float json "factor" factor
                float json "low_freq_factor" low
                float json "high_freq_factor" high
                json.WriteNumber("original_max_position_embeddings", original))
        | RopeScaling.Yarn yarn ->
            object "yarn" (fun () ->
                float json "factor" yarn.Factor
                json.WriteNumber("original_max_position_embeddings", yarn.Original)
                float json "beta_fast" yarn.BetaFast
                float json "beta_slow" yarn.BetaSlow
                float json "attention_factor" yarn.AttentionFactor

                if not yarn.Truncate then
                    json.WriteBoolean("truncate", false))

    let private windows (json: Utf8JsonWriter) (windows: int option[]) =
        let first = windows |> Array.tryFindIndex Option.isSome
        json.WriteBoolean("use_sliding_window", first.IsSome)
        json.WriteNumber("max_window_layers", defaultArg first windows.Length)
        json.WriteStartArray "layer_types"

        for window in windows do
            json.WriteStringValue(
                if window.IsSome then
                    "sliding_attention"
                else
                    "full_attention"
            )

        json.WriteEndArray()

    /// A JSON object over several lines.
    let json (write: Utf8JsonWriter -> unit) : byte[] =
        use memory = new MemoryStream()
        using (new Utf8JsonWriter(memory, JsonWriterOptions(Indented = true))) (fun json ->
            json.WriteStartObject()
            write json
            json.WriteEndObject())
        memory.WriteByte(byte '\n')
        memory.ToArray()

    /// Of an expressible configuration, with fields of the file that it came from.
    let bytes (dtype: Dtype) (kept: (string * string) list) (config: LlamaConfig) : byte[] =
        let architecture = Architecture.ofFamily config.Family

        json (fun json ->
            json.WriteStartArray "architectures"
            json.WriteStringValue architecture.Class
            json.WriteEndArray()
            json.WriteString("model_type", architecture.Name)
            json.WriteString("torch_dtype", torchDtype dtype)
            json.WriteNumber("vocab_size", config.Vocabulary)
            json.WriteNumber("hidden_size", config.Hidden)
            json.WriteNumber("intermediate_size", config.Intermediate)
            json.WriteNumber("num_hidden_layers", config.Layers)
            json.WriteNumber("num_attention_heads", config.Heads)
            json.WriteNumber("num_key_value_heads", config.KvHeads)
            json.WriteNumber("head_dim", config.HeadDim)
            json.WriteString("hidden_act", "silu")
            json.WriteNumber("max_position_embeddings", config.Context)
            float json "rms_norm_eps" config.NormEps
            float json "rope_theta" config.RopeTheta
            scaling json config.RopeScaling
            json.WriteBoolean("tie_word_embeddings", config.TiedHead)
            intOrNull json "bos_token_id" config.Bos
            ids json "eos_token_id" config.StopIds
            KeptFields.write [] kept json

            for name, value in architecture.Fields config do
                if not (List.exists (fun (kept, _) -> kept = name) kept) then
                    intOrNull json name value

            if architecture.Biases.Qkv = Presence.Either then
                json.WriteBoolean("attention_bias", config.QkvBias)

            if architecture.Biases.Mlp = Presence.Either then
                json.WriteBoolean("mlp_bias", config.MlpBias)

            if architecture.Windows <> WindowFields.Nowhere then
                intOrNull json "sliding_window" (Array.tryPick id config.Windows)

            if architecture.Windows = WindowFields.ByLayer then
                windows json config.Windows)
