namespace LayerSkip

open System
open System.IO

/// A model as llama.cpp loads it.
[<RequireQualifiedAccess>]
module internal GgufExport =
    /// A head's rows from two halves to pairs that rotate together, llama.cpp's order: [heads * headDim; ..] -> the same.
    let private toPairs (heads: int) (rows: Tensor) : Tensor =
        rows.view(int64 heads, 2L, rows.shape[0] / int64 heads / 2L, -1L).transpose(1L, 2L).reshape rows.shape

    let private items (weights: Weights) : TensorItem list =
        let config = weights.Config
        let rename = GgufName.ggml (Architecture.ofFamily config.Family).Gguf

        [
            for name, tensor in Weights.named weights do
                // Norms and biases are float32.
                let dtype = if tensor.shape.Length = 1 then Dtype.F32 else weights.Dtype

                TensorWriter.item (rename name) tensor.shape dtype (fun () ->
                    match GgufTensors.reordered config name tensor.shape with
                    | Some heads -> toPairs heads tensor
                    | None -> tensor.alias ())

            match GgufConfigExport.divisors config with
            | Some divisors ->
                let shape = [| divisors.LongLength |]
                TensorWriter.item GgufName.ropeTable shape Dtype.F32 (fun () ->
                    Tensors.ofFloats shape divisors)
            | None -> ()
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

    /// Writes the file; the numbers of its tensors and bytes, and what to tell the user.
    let write (name: string) (path: string) (checkpoint: Checkpoint) =
        let weights, config = checkpoint.Weights, checkpoint.Config

        Check.both (Check.all (GgufConfigExport.faults config) ()) (tokenizer checkpoint)
        |> Result.bind (fun ((), tokenizer) ->
            let items = items weights

            let metadata =
                GgufConfigExport.metadata name weights.Dtype config
                @ (checkpoint.Recommended |> Option.toList |> List.collect GgufConfigExport.recommended)
                @ StopTokens.metadata checkpoint.StopIds
                @ tokenizer

            GgufWriter.write path metadata items
            |> Result.map (fun bytes ->
                let remarks = [
                    if checkpoint.Tokenizer.IsNone then
                        "the model has no tokenizer: llama.cpp takes and gives its ids only, and programs that try a text first refuse it"
                    yield! GgufConfigExport.remarks config
                ]

                struct (items.Length, bytes, remarks)))
