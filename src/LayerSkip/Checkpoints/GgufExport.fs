namespace LayerSkip

open System
open System.IO
open TorchSharp

/// A model as llama.cpp loads it.
[<RequireQualifiedAccess>]
module internal GgufExport =
    /// A head's rows from two halves to pairs that rotate together, llama.cpp's order: [heads * headDim; ..] -> the same.
    let private toPairs (heads: int) (rows: Tensor) : Tensor =
        rows.view(int64 heads, 2L, rows.shape[0] / int64 heads / 2L, -1L).transpose(1L, 2L).reshape rows.shape

    /// A model's tensor by pieces of its rows, as llama.cpp names and orders them.
    type private Source = {
        Name: string
        Shape: int64[]
        /// How many rows cannot be parted: a head's, where its rows are reordered.
        Together: int64
        /// So many rows from one on, whole heads.
        Rows: int64 -> int64 -> Tensor
    }

    let private sources (weights: Weights) : Source list =
        let config = weights.Config
        let rename = GgufName.ggml (Architecture.ofFamily config.Family).Gguf

        [
            for name, tensor in Weights.named weights do
                let rows first count = tensor.narrow (0L, first, count)
                let source = { Name = rename name; Shape = tensor.shape; Together = 1L; Rows = rows }

                match GgufTensors.reordered config name tensor.shape with
                | None -> source
                | Some heads ->
                    let size = tensor.shape[0] / int64 heads

                    {
                        source with
                            Together = size
                            Rows = fun first count -> toPairs (int (count / size)) (rows first count)
                    }
        ]

    // Of a piece: 16 MB as float32, and enough for every core.
    let private pieceValues = 1L <<< 22

    /// Rows of a matrix at a time, so that the memory they take is bounded.
    let private eachPiece (source: Source) (put: Tensor -> unit) : unit =
        let rows = source.Shape[0]
        let width = Array.fold (*) 1L source.Shape[1..]
        let piece = max 1L (pieceValues / (width * source.Together)) * source.Together

        for first in 0L .. piece .. rows - 1L do
            use _scope = Scope.start ()
            put (source.Rows first (min piece (rows - first)))

    let private item (format: GgufFormat) (source: Source) : TensorItem<GgufFormat> = {
        Name = source.Name
        Shape = source.Shape
        Format = format
        Size = GgufFormat.size format source.Shape
        Write =
            fun file ->
                eachPiece source (fun rows ->
                    match format with
                    | GgufFormat.Quantised blocks ->
                        file.Write(
                            (GgufQuants.pack blocks (ReadOnlyMemory(Tensors.toFloat32s rows))).AsSpan()
                        )
                    | GgufFormat.F32
                    | GgufFormat.F16
                    | GgufFormat.BF16 ->
                        TensorWriter.write (ScalarType.ofDtype (GgufFormat.dtype format)) rows file)
    }

    let private ropeTable (config: LlamaConfig) = [
        match GgufConfigExport.divisors config with
        | Some divisors ->
            let shape = [| divisors.LongLength |]

            {
                Name = GgufName.ropeTable
                Shape = shape
                Together = 1L
                Rows = fun first count -> (Tensors.ofFloats shape divisors).narrow(0L, first, count)
            }
        | None -> ()
    ]

    /// Weights that a mix cannot hold: float16 scales, times small numbers.
    let private beyondScales (mix: GgufMix) (weights: Weights) = [
        for name, tensor in Weights.named weights do
            use _scope = Scope.start ()
            let dimensions = Array.init tensor.shape.Length int64
            let ends =
                [ tensor.amin dimensions; tensor.amax dimensions ]
                |> List.collect (Tensors.toFloats >> List.ofArray)

            if tensor.shape.Length > 1 && List.exists (fun value -> abs value > float Half.MaxValue) ends then
                LayerSkipError.BeyondDtype(name, mix.Name, "bf16 or f32")
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

    /// Rows that no block of a mix divides.
    let private fallbacks (mix: GgufMix) (items: TensorItem<GgufFormat> list) = [
        for item in items do
            if item.Shape.Length > 1 && item.Format = GgufFormat.F16 then
                $"{item.Name} is kept in f16: its rows of {Array.last item.Shape} are no multiple of {mix.Name}'s blocks"
    ]

    /// Writes the file, its matrices in the dtype of the weights or in a mix; the formats of its tensors, its bytes, and
    /// what to tell the user.
    let write (name: string) (mix: GgufMix option) (path: string) (checkpoint: Checkpoint) =
        let weights, config = checkpoint.Weights, checkpoint.Config

        // Norms and biases are float32.
        let formatOf (matrix: GgufFormat) (source: Source) =
            match mix with
            | Some mix -> GgufMix.format mix config source.Name source.Shape
            | None -> if source.Shape.Length = 1 then GgufFormat.F32 else matrix

        let matrix =
            match GgufFormat.tryOfDtype weights.Dtype, mix with
            | Some format, _ -> Ok format
            | None, Some _ -> Ok GgufFormat.F32
            | None, None -> Error [ GgufWriter.unsupportedDtype ]

        let beyond = mix |> Option.toList |> List.collect (fun mix -> beyondScales mix weights)

        Check.both (Check.all (GgufConfigExport.faults config @ beyond) ()) (tokenizer checkpoint)
        |> Check.both matrix
        |> Result.bind (fun (matrix, ((), tokenizer)) ->
            let items = [
                for source in sources weights @ ropeTable config -> item (formatOf matrix source) source
            ]

            let fileType =
                match mix with
                | Some mix -> mix.FileType
                | None -> GgufConfigExport.fileType weights.Dtype

            let metadata =
                GgufConfigExport.metadata name fileType config
                // Of the blocks' layouts.
                @ (if mix.IsSome then
                       [ "general.quantization_version", GgufValue.Int 2L ]
                   else
                       [])
                @ (checkpoint.Recommended |> Option.toList |> List.collect GgufConfigExport.recommended)
                @ StopTokens.metadata checkpoint.StopIds
                @ tokenizer

            GgufWriter.write path metadata items
            |> Result.map (fun bytes ->
                let remarks = [
                    if checkpoint.Tokenizer.IsNone then
                        "the model has no tokenizer: llama.cpp takes and gives its ids only, and programs that try a text first refuse it"
                    yield! GgufConfigExport.remarks config
                    yield! mix |> Option.toList |> List.collect (fun mix -> fallbacks mix items)
                ]

                let formats = items |> List.map (fun item -> GgufFormat.name (GgufFormat.kind item.Format))
                struct (formats, bytes, remarks)))
