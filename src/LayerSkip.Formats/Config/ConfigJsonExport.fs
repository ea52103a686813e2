namespace LayerSkip

open System
open System.Globalization
open System.Text.Json

/// config.json as transformers reads it, in the spelling of its version 4, which version 5 reads too.
[<RequireQualifiedAccess>]
module internal ConfigJsonExport =
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
            Architecture.allows biases.Qkv config.QkvBias
            // One field says both.
            && (biases.Qkv <> Presence.Either || config.QkvBias = config.OutputBias)

        let scaling =
            match RopeAngles.named config with
            | RopeScaling.Divided _ -> None
            | scaling -> Some scaling

        let parts = [
            if not hasQkvBias then
                "biases of q, k and v as in this model"
            yield! Architecture.unlike biases config
            if not hasWindows then
                "sliding windows as in this model"
            match scaling |> Option.bind RopeScaling.tryType with
            | None -> "these divisors of rotary angles"
            | Some kind when not (List.contains kind architecture.RopeTypes) ->
                $"rotary angles of type {kind}"
            | Some _ -> ()
        ]

        Check.all (List.map without parts) {
            config with
                RopeScaling = defaultArg scaling RopeScaling.Default
        }

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
        match RopeScaling.tryType scaling with
        | None
        | Some "default" -> json.WriteNull "rope_scaling"
        | Some kind ->
            json.WriteStartObject "rope_scaling"
            json.WriteString("rope_type", kind)

            for name, value in RopeScaling.numbers scaling do
                if name = RopeScaling.originalName then
                    json.WriteNumber(name, int value)
                else
                    float json name value

            match scaling with
            | RopeScaling.Yarn { Truncate = false } -> json.WriteBoolean("truncate", false)
            | _ -> ()

            json.WriteEndObject()

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

    /// The text of config.json, of an expressible configuration with fields of the file that it came from: UTF-8,
    /// indented, ending with a newline; `dtype` is that of the weights beside it.
    let bytes (dtype: Dtype) (kept: (string * string) list) (config: LlamaConfig) : byte[] =
        let architecture = Architecture.ofFamily config.Family

        Json.write (fun json ->
            json.WriteStartArray "architectures"
            json.WriteStringValue architecture.Class
            json.WriteEndArray()
            json.WriteString("model_type", architecture.Name)
            json.WriteString("torch_dtype", Dtype.torchName dtype)
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
