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

    /// The model's tensors, as llama.cpp names and orders them.
    let private sources (weights: Weights) : WeightPart list =
        let config = weights.Config
        let rename = GgufName.ggml (Architecture.ofFamily config.Family).Gguf

        [
            for part in Weights.parts weights do
                let source = { part with Name = rename part.Name }

                match GgufTensors.reordered config part.Name part.Shape with
                | None -> { source with Blocks = part.Blocks |> Option.filter _.PairedRows.IsNone }
                | Some heads ->
                    let size = part.Shape[0] / int64 heads

                    {
                        source with
                            Together = size
                            Rows = fun first count -> toPairs (int (count / size)) (part.Rows first count)
                            Blocks = part.Blocks |> Option.filter _.PairedRows.IsSome
                    }
        ]

    /// Blocks that stand in a file as they are to be written.
    let private tryAsTheyAre (format: GgufFormat) (source: WeightPart) : BlockRows option =
        match format with
        | GgufFormat.Quantised format -> source.Blocks |> Option.filter (fun blocks -> blocks.Format = format)
        | GgufFormat.F32
        | GgufFormat.F16
        | GgufFormat.BF16 -> None

    /// Rows as blocks.
    let private pack (format: BlockFormat) (file: Stream) (rows: Tensor) : unit =
        let values = rows.``to``(torch.ScalarType.Float32).cpu().contiguous()
        let bytes = BlockFormat.bytes (values.numel ()) format
        let packed = torch.empty ([| bytes |], dtype = torch.ScalarType.Byte, device = torch.CPU)
        GgufQuants.packInto format (Tensors.memory values) (Tensors.memory packed)
        RawMemory.write file (Tensors.memory packed)
        GC.KeepAlive((values, packed))

    let private item (format: GgufFormat) (source: WeightPart) : TensorItem<GgufFormat> = {
        Name = source.Name
        Shape = source.Shape
        Format = format
        Size = GgufFormat.size format source.Shape
        Write =
            fun file ->
                match tryAsTheyAre format source with
                | Some blocks -> RawMemory.write file blocks.Memory
                | None ->
                    match format with
                    | GgufFormat.Quantised blocks -> source |> WeightPart.eachPiece (pack blocks file)
                    | GgufFormat.F32
                    | GgufFormat.F16
                    | GgufFormat.BF16 -> WeightPart.write (GgufFormat.dtype format) file source
    }

    let private ropeTable (config: LlamaConfig) = [
        match GgufConfigExport.divisors config with
        | Some divisors ->
            let shape = [| divisors.LongLength |]

            {
                Name = GgufName.ropeTable
                Shape = shape
                ScalarType = torch.ScalarType.Float64
                Together = 1L
                Blocks = None
                Rows = fun first count -> (Tensors.ofFloats shape divisors).narrow(0L, first, count)
            }
        | None -> ()
    ]

    /// What the matrices of a file are written in.
    [<RequireQualifiedAccess>]
    type Target =
        | Dtype of Dtype
        | Mix of GgufMix
        /// Each in what it is held in: blocks as they are.
        | AsStored

    /// Norms and biases are float32.
    let private formatOf (target: Target) (config: LlamaConfig) (source: WeightPart) : GgufFormat =
        let orF32 format = Option.defaultValue GgufFormat.F32 format

        match target with
        | Target.Mix mix -> GgufMix.format mix config source.Name source.Shape
        | _ when source.Shape.Length = 1 -> GgufFormat.F32
        | Target.Dtype dtype -> GgufFormat.tryOfDtype dtype |> orF32
        | Target.AsStored ->
            match source.Blocks with
            | Some blocks -> GgufFormat.Quantised blocks.Format
            | None -> ScalarType.tryDtype source.ScalarType |> Option.bind GgufFormat.tryOfDtype |> orF32

    /// Weights that a mix cannot hold: not finite, or beyond float16, of which its scales are.
    let private beyondMix (mix: GgufMix) (weights: Weights) = [
        for part, source in List.zip (Weights.parts weights) (sources weights) do
            let format = formatOf (Target.Mix mix) weights.Config source

            // Their scales were found finite when they were loaded.
            if (tryAsTheyAre format source).IsNone then
                let ends = WeightPart.ends part

                if not (WeightPart.areFinite torch.ScalarType.Float32 ends) then
                    ScalarType.beyond part.Name part.ScalarType
                elif
                    part.Shape.Length > 1
                    && ends |> Array.exists (fun value -> abs value > float Half.MaxValue)
                then
                    LayerSkipError.BeyondDtype(part.Name, mix.Name, "bf16 or f32")
    ]

    /// A GGUF source's own metadata of its tokenizer, else what the tokenizer comes to.
    let private tokenizer
        (source: Map<string, GgufValue>)
        (checkpoint: Checkpoint)
        : Result<(string * GgufValue) list, LayerSkipError list> =
        if source.ContainsKey "tokenizer.ggml.model" then
            Ok [
                for KeyValue(key, value) in source do
                    if key.StartsWith("tokenizer.", StringComparison.Ordinal) then
                        key, value
            ]
        else
            match checkpoint.Tokenizer with
            | None -> Ok(GgufTokenizerExport.none checkpoint.Config.Bos checkpoint.StopIds)
            | Some tokenizer ->
                GgufTokenizerExport.ofTokenizer checkpoint.Config.Vocabulary checkpoint.StopIds tokenizer

    /// llama.cpp's number of the whole file; of what is as stored the source's own, and none where it has none.
    let private fileType (target: Target) (source: Map<string, GgufValue>) (weights: Weights) : int64 option =
        match target, source.TryFind GgufConfig.fileTypeKey with
        | Target.Mix mix, _ -> Some mix.FileType
        | Target.Dtype dtype, _ -> Some(GgufConfigExport.fileType dtype)
        | Target.AsStored, Some(GgufValue.Int own) -> Some own
        | Target.AsStored, _ when Weights.isQuantised weights -> None
        | Target.AsStored, _ -> Some(GgufConfigExport.fileType weights.Dtype)

    /// Rows that no block of a mix divides, and those that another format's blocks stand in for.
    let private fallbacks (mix: GgufMix) (config: LlamaConfig) (items: TensorItem<GgufFormat> list) = [
        let matrices = items |> List.filter (fun item -> item.Shape.Length > 1)

        for item in matrices do
            if item.Format = GgufFormat.F16 then
                $"{item.Name} is kept in f16: its rows of {Array.last item.Shape} are no multiple of {mix.Name}'s blocks"

        let replaced =
            matrices
            |> List.map (fun item -> GgufMix.wanted mix config item.Name, item.Format)
            |> List.filter (fun (wanted, format) ->
                format <> GgufFormat.F16 && format <> GgufFormat.Quantised wanted)
            |> List.countBy (fun (wanted, format) -> wanted.Name, GgufFormat.name (GgufFormat.kind format))
            |> List.map (fun ((wanted, format), count) -> $"{count} in {format} for {wanted}")

        if not replaced.IsEmpty then
            let listed = String.concat ", " replaced
            $"where rows are no multiple of 256 other formats stand in, as in llama.cpp: {listed}"
    ]

    /// Writes the file; the formats of its tensors, its bytes, and what to tell the user. What stands in a file's blocks in the
    /// format that is asked for is copied as it is.
    let write (name: string) (target: Target) (path: string) (checkpoint: Checkpoint) =
        let weights, config = checkpoint.Weights, checkpoint.Config

        let mix, targetFaults =
            match target with
            | Target.Mix mix -> Some mix, beyondMix mix weights
            | Target.Dtype Dtype.F64 -> None, [ GgufWriter.unsupportedDtype ]
            | Target.AsStored when weights.Dtype = Dtype.F64 -> None, [ GgufWriter.unsupportedDtype ]
            | Target.Dtype _
            | Target.AsStored -> None, []

        let source =
            if File.Exists checkpoint.Path then
                Gguf.readMetadata checkpoint.Path
            else
                Ok Map.empty

        let withTokenizer source =
            tokenizer source checkpoint |> Result.map (fun tokenizer -> source, tokenizer)

        Check.both
            (Check.all (GgufConfigExport.faults config @ targetFaults) ())
            (source |> Result.bind withTokenizer)
        |> Result.bind (fun ((), (source, tokenizer)) ->
            let items = [
                for source in sources weights @ ropeTable config ->
                    item (formatOf target config source) source
            ]

            let hasBlocks = items |> List.exists _.Format.IsQuantised

            let metadata =
                GgufConfigExport.metadata name (fileType target source weights) config
                // Of the blocks' layouts.
                @ (if mix.IsSome || hasBlocks then
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
                    yield! mix |> Option.toList |> List.collect (fun mix -> fallbacks mix config items)
                ]

                let formats = items |> List.map (fun item -> GgufFormat.name (GgufFormat.kind item.Format))
                struct (formats, bytes, remarks)))
