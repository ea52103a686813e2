namespace LayerSkip

open System
open System.Text.Json

/// Reads config.json as transformers does (configuration_llama.py and its like): what a file leaves out is the
/// family's own default, and what we know to ask for another computation than ours is an error.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module LlamaConfig =
    /// The families in words, for the hint of an error.
    let families = $"model types {Architecture.listed [ for entry in Architecture.all -> entry.Name ]}"

    /// transformers 5 puts angle base and scaling into `rope_parameters`, 4 into `rope_theta` and `rope_scaling`.
    let private rope (json: JsonReader) (architecture: Architecture) context =
        let inner = json.Object "rope_parameters" |> Option.orElseWith (fun () -> json.Object "rope_scaling")

        let number name fallback =
            match inner with
            | Some fields when (fields.TryField name).IsSome -> fields.Float(name, fallback)
            | _ -> json.Float(name, fallback)

        let theta = number "rope_theta" 10000.0
        let turning = number "partial_rotary_factor" 1.0

        if turning <> 1.0 then
            json.Fault $"\"partial_rotary_factor\" is {turning}, only 1 is supported"

        let scaling =
            match inner with
            | None -> RopeScaling.Default
            | Some fields ->
                let kind = fields.TryString "rope_type" |> Option.orElse (fields.TryString "type")
                let factor = fields.Float("factor", 1.0)
                let original = fields.Int("original_max_position_embeddings", context)

                match defaultArg kind "default" with
                | kind when not (List.contains kind architecture.RopeTypes) ->
                    json.Fault
                        $"rope type \"{kind}\" is not supported; {Architecture.listed architecture.RopeTypes}"
                    RopeScaling.Default
                | "dynamic" -> RopeScaling.Dynamic(factor, fields.TryInt "original_max_position_embeddings")
                | "linear" -> RopeScaling.Linear factor
                | "llama3" ->
                    let low, high =
                        fields.Float("low_freq_factor", 1.0), fields.Float("high_freq_factor", 4.0)

                    RopeScaling.Llama3(factor, low, high, original)
                | "yarn" ->
                    let mscale scale = RopeScaling.yarnAttention scale factor
                    let given = fields.Float("mscale", 0.0), fields.Float("mscale_all_dim", 0.0)

                    let attention =
                        match given with
                        | m, all when m <> 0.0 && all <> 0.0 -> mscale m / mscale all
                        | _ -> mscale 1.0

                    RopeScaling.Yarn {
                        Factor = factor
                        Original = original
                        BetaFast = fields.Float("beta_fast", 32.0)
                        BetaSlow = fields.Float("beta_slow", 1.0)
                        AttentionFactor = fields.Float("attention_factor", attention)
                        Truncate = fields.Bool("truncate", true)
                    }
                | _ -> RopeScaling.Default

        theta, scaling

    /// Which layers look through a sliding window.
    let private windows (json: JsonReader) (fields: WindowFields) layers =
        let window = json.TryInt "sliding_window"

        match fields, window with
        | _, Some size when size < 1 ->
            json.Fault $"\"sliding_window\" is {size}, it must be at least 1"
            Array.create layers None
        | WindowFields.Everywhere, Some _ -> Array.create layers window
        | WindowFields.ByLayer, Some _ when json.Bool("use_sliding_window", false) ->
            match json.TryField "layer_types" with
            | Some types when types.ValueKind = JsonValueKind.Array && types.GetArrayLength() = layers -> [|
                for kind in types.EnumerateArray() ->
                    window |> Option.filter (fun _ -> kind.ToString() = "sliding_attention")
              |]
            | Some _ ->
                json.Fault $"\"layer_types\" must list {layers} layers"
                Array.create layers None
            | None ->
                let first = json.Int("max_window_layers", 28)
                Array.init layers (fun layer -> if layer >= first then window else None)
        | _ -> Array.create layers None

    /// Reads the text of a config.json, in the spelling of transformers 4 or 5; `path` is for messages. Every fault
    /// of the file is in the error; an unknown model_type is Unsupported, and alone.
    let ofJson (path: string) (root: JsonElement) : Result<LlamaConfig, LayerSkipError list> =
        let json = JsonReader(path, root)
        let kind = json.TryString "model_type" |> Option.defaultValue ""

        match Architecture.tryNamed kind with
        | None ->
            let what =
                if kind = "" then
                    "a model without a model_type"
                else
                    $"model_type \"{kind}\""
            Check.unsupported $"{path}: {what}" families
        | Some architecture ->
            let hidden, layers, heads =
                json.Size "hidden_size",
                json.Size("num_hidden_layers", most = ConfigCheck.mostLayers),
                json.Size "num_attention_heads"
            let intermediate, vocabulary = json.Size "intermediate_size", json.Size "vocab_size"
            let sized = json.Faults.IsEmpty
            let kvHeads = json.Int("num_key_value_heads", architecture.KvHeads heads)
            let headDim = json.Int("head_dim", architecture.HeadDim |> Option.defaultValue (hidden / heads))
            let context = json.Int("max_position_embeddings", architecture.Context)
            let theta, scaling = rope json architecture context
            let activation = json.TryString "hidden_act" |> Option.defaultValue "silu"

            if activation <> "silu" && activation <> "swish" then
                json.Fault $"hidden_act \"{activation}\" is not supported; silu is"

            let attentionBias = json.Bool("attention_bias", false)
            let biases = architecture.Biases

            let has presence (isSaid: bool) =
                presence = Presence.Always || presence = Presence.Either && isSaid

            // A vocabulary that may itself be at fault says nothing of ids.
            let ids name = if sized then json.TokenIds(name, vocabulary) else None

            let config = {
                Family = architecture.Family
                Vocabulary = vocabulary
                Hidden = hidden
                Intermediate = intermediate
                Layers = layers
                Heads = heads
                KvHeads = kvHeads
                HeadDim = headDim
                Context = context
                NormEps = json.Float("rms_norm_eps", architecture.NormEps)
                RopeTheta = theta
                RopeScaling = scaling
                Windows = windows json architecture.Windows layers
                QkvBias = has biases.Qkv attentionBias
                OutputBias = has biases.Output attentionBias
                MlpBias = biases.Mlp = Presence.Either && json.Bool("mlp_bias", false)
                QkNorm = architecture.QkNorm
                TiedHead = json.Bool("tie_word_embeddings", false)
                Bos = ids "bos_token_id" |> Option.bind Array.tryHead
                StopIds = ids "eos_token_id" |> Option.defaultValue [||]
                StoredDtype = json.TryString "dtype" |> Option.orElse (json.TryString "torch_dtype")
            }

            Check.all (json.Faults @ ConfigCheck.faults id path config) config

    /// Reads a folder's config.json. NotFound where there is none.
    let load (path: string) : Result<LlamaConfig, LayerSkipError list> =
        Json.load path "a Hugging Face model folder has one" (ofJson path)

    /// The recommended exit where a model card names none: round(L/3), at least 1, counted from 1. Of a model of one
    /// layer that is no exit.
    let defaultExit (config: LlamaConfig) : int =
        max 1 (int (Math.Round(float config.Layers / 3.0, MidpointRounding.AwayFromZero)))

    /// The draft length where nothing recommends one, in tokens.
    let defaultDraft = 4
