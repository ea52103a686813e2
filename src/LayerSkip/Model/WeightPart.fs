namespace LayerSkip

open System.IO
open TorchSharp

/// One tensor of a checkpoint, as a model in memory holds it: values that are read by pieces of rows, from a tensor or from a
/// file's blocks.
[<NoEquality; NoComparison>]
type WeightPart = {
    /// Hugging Face's.
    Name: string
    /// [rows; columns] or [size]
    Shape: int64[]
    /// What `Rows` gives its values in: of blocks float32.
    ScalarType: torch.ScalarType
    /// How many rows cannot be parted: those of a head, where they are reordered.
    Together: int64
    /// `count` rows from row `first` on, both multiples of `Together`: [count; columns] or [count], in the scope at hand.
    Rows: int64 -> int64 -> Tensor
    /// Where a file holds them.
    Blocks: BlockRows option
}

/// Reading weights without more of them in memory than a piece.
[<RequireQualifiedAccess>]
module internal WeightPart =
    /// `count` rows of a joined weight from row `first` on.
    let private ofRows (name: string) (first: int64) (count: int64) (rows: WeightRows) : WeightPart =
        match rows with
        | WeightRows.Dense tensor -> {
            Name = name
            Shape = Array.append [| count |] tensor.shape[1..]
            ScalarType = tensor.dtype
            Together = 1L
            Rows = fun start count -> tensor.narrow (0L, first + start, count)
            Blocks = None
          }
        | WeightRows.Blocks whole ->
            let blocks = BlockRows.rows first count whole

            {
                Name = name
                Shape = blocks.Shape
                ScalarType = torch.ScalarType.Float32
                Together = blocks.PairedRows |> Option.map int64 |> Option.defaultValue 1L
                Rows = fun first count -> BlockRows.unpack first count blocks
                Blocks = Some blocks
            }

    /// The tensors of a checkpoint that a weight is joined from. None of them lies in two of its formats.
    let ofWeight (parts: CheckpointPart list) (weight: Weight) : WeightPart list =
        let place start (rows: WeightRows) =
            let after = start + Array.head (WeightRows.shape rows)
            struct (start, after, rows), after

        let placed = weight.Rows |> List.mapFold place 0L |> fst

        let find first (name, shape: int64 list) =
            let after = first + shape.Head
            let struct (start, _, rows) =
                placed |> List.find (fun (struct (start, until, _)) -> start <= first && after <= until)
            ofRows name (first - start) shape.Head rows, after

        parts |> List.mapFold find 0L |> fst

    /// What it is kept in among weights of a dtype: beside matrices, vectors have that of activations.
    let keptIn (device: Device) (dtype: Dtype) (part: WeightPart) : Dtype =
        if part.Shape.Length > 1 then
            dtype
        else
            ScalarType.activations device dtype |> ScalarType.tryDtype |> Option.defaultValue dtype

    // Of a piece: 16 MB as float32, and enough for every core.
    let private pieceValues = 1L <<< 22

    /// Its rows, some at a time, each in a scope of its own.
    let eachPiece (put: Tensor -> unit) (part: WeightPart) : unit =
        let rows = part.Shape[0]
        let width = Array.fold (*) 1L part.Shape[1..]
        let piece = max 1L (pieceValues / (width * part.Together)) * part.Together

        for first in 0L .. piece .. rows - 1L do
            use _scope = Scope.start ()
            put (part.Rows first (min piece (rows - first)))

    /// Its values in a dtype.
    let write (dtype: Dtype) (file: Stream) (part: WeightPart) : unit =
        part |> eachPiece (fun rows -> TensorWriter.write (ScalarType.ofDtype dtype) rows file)

    /// The least and the greatest value of every piece; NaN where one is.
    let ends (part: WeightPart) : float[] =
        let found = ResizeArray()

        part
        |> eachPiece (fun rows ->
            let dimensions = Array.init rows.shape.Length int64

            for extreme in [ rows.amin dimensions; rows.amax dimensions ] do
                found.AddRange(Tensors.toFloats extreme))

        found.ToArray()

    /// Whether numbers stay finite in a dtype: those between them do then, as rounding keeps their order.
    let areFinite (kept: torch.ScalarType) (ends: float[]) : bool =
        use _scope = Scope.start ()
        (Tensors.ofFloats [| ends.LongLength |] ends).``to``(kept) |> Tensors.isFinite
