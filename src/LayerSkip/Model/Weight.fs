namespace LayerSkip

open System
open TorchSharp

/// Rows of a matrix in a file's blocks, where they lie.
[<NoEquality; NoComparison>]
type BlockRows = {
    Format: BlockFormat
    /// [rows; columns]
    Shape: int64[]
    /// Rows of a head whose rows stand in pairs that turn together, where they do; else they stand half a head apart.
    PairedRows: int option
    Memory: RawMemory
    /// Whose memory it is: it lasts until whoever holds a share has disposed it.
    Owner: MappedFile
}

/// Reading them.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module internal BlockRows =
    /// `count` of the rows from row `first` on, where they lie; of paired rows whole heads.
    let rows (first: int64) (count: int64) (blocks: BlockRows) : BlockRows =
        let bytes rows = BlockFormat.bytes (rows * blocks.Shape[1]) blocks.Format

        {
            blocks with
                Shape = [| count; blocks.Shape[1] |]
                Memory = { Address = blocks.Memory.Address + nativeint (bytes first); Length = bytes count }
        }

    /// `count` whole blocks' worth of rows from row `first` on, as ggml's decoder makes them, float32 [count; columns], in the
    /// order that the file has them in.
    let decode (first: int64) (count: int64) (blocks: BlockRows) : Tensor =
        let columns = blocks.Shape[1]
        let row = BlockFormat.bytes columns blocks.Format
        ArgumentOutOfRangeException.ThrowIfNegative first
        ArgumentOutOfRangeException.ThrowIfGreaterThan((first + count) * row, blocks.Memory.Length)
        let values = torch.empty ([| count; columns |], dtype = torch.ScalarType.Float32, device = torch.CPU)
        let target = Tensors.address values

        System.Threading.Tasks.Parallel.For(
            0L,
            count,
            fun (index: int64) ->
                blocks.Format
                |> BlockFormat.decodeAt
                    (blocks.Memory.Address + nativeint ((first + index) * row))
                    (target + nativeint (index * columns * 4L))
                    (int (columns / int64 blocks.Format.Values))
        )
        |> ignore

        values

    /// The same with the rows of heads half a head apart, whatever order the file has them in: of paired rows whole heads.
    let unpack (first: int64) (count: int64) (blocks: BlockRows) : Tensor =
        let values = decode first count blocks

        match blocks.PairedRows with
        | None -> values
        | Some head ->
            let pairs = values.view (-1L, int64 head / 2L, 2L, blocks.Shape[1])
            pairs.transpose(1L, 2L).reshape values.shape

/// Rows of a weight of one format.
[<RequireQualifiedAccess; NoEquality; NoComparison>]
type WeightRows =
    | Dense of Tensor
    | Blocks of BlockRows

[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module internal WeightRows =
    /// [rows; columns] or [size]
    let shape (rows: WeightRows) : int64[] =
        match rows with
        | WeightRows.Dense tensor -> tensor.shape
        | WeightRows.Blocks blocks -> blocks.Shape

/// One of a model's weights, [rows; columns] or [size]. What reads the same input is one of them; its parts follow one another where the
/// file holds them in different formats, or in blocks.
[<NoEquality; NoComparison>]
type Weight = {
    Rows: WeightRows list
} with

    /// Of a weight that is one tensor.
    member this.Tensor =
        match this.Rows with
        | [ WeightRows.Dense tensor ] -> tensor
        | _ -> invalidOp "these weights stay in their file's formats: load them in a dtype"


/// What a weight holds, for libtorch and for counting.
[<RequireQualifiedAccess>]
module Weight =
    let ofTensor (tensor: Tensor) : Weight = { Rows = [ WeightRows.Dense tensor ] }

    /// [rows; columns] or [size].
    let shape (weight: Weight) : int64[] =
        let shapes = weight.Rows |> List.map WeightRows.shape
        Array.append [| shapes |> List.sumBy Array.head |] (Array.tail shapes.Head)

    /// How many numbers it has.
    let numel (weight: Weight) : int64 = Array.fold (*) 1L (shape weight)

    /// In memory.
    let bytes (weight: Weight) : int64 =
        weight.Rows
        |> List.sumBy (function
            | WeightRows.Dense tensor -> tensor.numel () * tensor.ElementSize
            | WeightRows.Blocks blocks -> blocks.Memory.Length)

    /// Whether some of its rows stay in a file's blocks.
    let isQuantised (weight: Weight) : bool = weight.Rows |> List.exists _.IsBlocks

    /// Whether it is one tensor.
    let isTensor (weight: Weight) : bool =
        match weight.Rows with
        | [ WeightRows.Dense _ ] -> true
        | _ -> false

    /// The tensors that it holds.
    let tensors (weight: Weight) : Tensor list =
        weight.Rows
        |> List.choose (function
            | WeightRows.Dense tensor -> Some tensor
            | WeightRows.Blocks _ -> None)

    /// The files that it lies in.
    let files (weight: Weight) : MappedFile list =
        weight.Rows
        |> List.choose (function
            | WeightRows.Dense _ -> None
            | WeightRows.Blocks blocks -> Some blocks.Owner)

    /// The same over another tensor; of a weight in blocks a bug of the caller.
    let map (change: Tensor -> Tensor) (weight: Weight) : Weight = ofTensor (change weight.Tensor)

    let private denseRows (rows: WeightRows) : Tensor =
        match rows with
        | WeightRows.Dense tensor -> tensor
        | WeightRows.Blocks blocks -> BlockRows.unpack 0L blocks.Shape[0] blocks

    /// For libtorch: the tensor itself, or what the blocks hold as a new one, float32, in the scope at hand.
    let tensor (weight: Weight) : Tensor =
        match weight.Rows with
        | [ WeightRows.Dense tensor ] -> tensor
        | rows ->
            Scope.one (fun () ->
                torch.cat (
                    rows
                    |> List.map (fun rows -> (denseRows rows).``to`` torch.ScalarType.Float32)
                    |> Array.ofList
                ))

    /// What `tensor` and `select` give it in.
    let internal scalarType (weight: Weight) : torch.ScalarType =
        match weight.Rows with
        | [ WeightRows.Dense tensor ] -> tensor.dtype
        | _ -> torch.ScalarType.Float32

    /// Some of its rows, [ids; columns], for ids on any device: of blocks, no other rows are decoded.
    let select (ids: Tensor) (weight: Weight) : Tensor =
        match weight.Rows with
        | [ WeightRows.Blocks blocks ] when blocks.PairedRows.IsNone ->
            Scope.one (fun () ->
                torch.cat [| for id in Tensors.toIds ids -> BlockRows.decode (int64 id) 1L blocks |])
        | _ ->
            let tensor = tensor weight
            tensor.index_select (0L, ids.``to`` tensor.device)
