namespace LayerSkip

open System.Runtime.InteropServices
open FSharp.NativeInterop
open TorchSharp

#nowarn "9" // addresses of pinned arrays, and of tensors that outlive the calls

/// Open MPI, as far as it is needed. Its handles are the addresses of exported symbols.
[<RequireQualifiedAccess>]
module internal Mpi =
    [<Literal>]
    let private Library = "layerskip-mpi"

    [<DllImport(Library)>]
    extern int private MPI_Init_thread(nativeint argc, nativeint argv, int required, int& provided)

    [<DllImport(Library)>]
    extern int private MPI_Comm_rank(nativeint comm, int& rank)

    [<DllImport(Library)>]
    extern int private MPI_Comm_size(nativeint comm, int& size)

    [<DllImport(Library)>]
    extern int private MPI_Allreduce(
        nativeint send,
        nativeint receive,
        int count,
        nativeint dtype,
        nativeint op,
        nativeint comm
    )

    [<DllImport(Library)>]
    extern int private MPI_Barrier(nativeint comm)

    [<DllImport(Library)>]
    extern int private MPI_Abort(nativeint comm, int code)

    [<DllImport(Library)>]
    extern int private MPI_Finalize()

    let private funneled, inPlace = 1, 1n

    [<NoEquality; NoComparison>]
    type Handles = { World: nativeint; Float: nativeint; Double: nativeint; Sum: nativeint }

    /// The handles of a libmpi, which the calls go to from now on; None: it is not Open MPI's.
    let bind (library: nativeint) : Handles option =
        let isThere, _ = NativeLibrary.TryGetExport(library, "ompi_mpi_comm_world")

        if isThere then
            let symbol name = NativeLibrary.GetExport(library, name)

            NativeLibrary.SetDllImportResolver(
                typeof<Handles>.Assembly,
                fun name _ _ -> if name = Library then library else 0n
            )

            Some {
                World = symbol "ompi_mpi_comm_world"
                Float = symbol "ompi_mpi_float"
                Double = symbol "ompi_mpi_double"
                Sum = symbol "ompi_mpi_op_sum"
            }
        else
            None

    // Open MPI itself reports what goes wrong in a call, and ends every rank.
    let private succeed (name: string) (code: int) =
        if code <> 0 then
            invalidOp $"{name} failed with code {code}"

    /// Starts MPI: this rank, and how many there are.
    let start (handles: Handles) : struct (int * int) =
        let mutable provided, rank, size = 0, 0, 0
        MPI_Init_thread(0n, 0n, funneled, &provided) |> succeed "MPI_Init_thread"
        MPI_Comm_rank(handles.World, &rank) |> succeed "MPI_Comm_rank"
        MPI_Comm_size(handles.World, &size) |> succeed "MPI_Comm_size"
        struct (rank, size)

    let private addUp handles dtype (address: nativeint) count =
        MPI_Allreduce(inPlace, address, count, dtype, handles.Sum, handles.World)
        |> succeed "MPI_Allreduce"

    /// The sums over all ranks, number by number.
    let sum (handles: Handles) (values: float[]) : float[] =
        let total = Array.copy values

        if total.Length > 0 then
            use first = fixed total
            addUp handles handles.Double (NativePtr.toNativeInt first) total.Length

        total

    // A span's bytes are counted in 31 bits, as are MPI's elements.
    let private largestPiece = 1L <<< 27

    let private sumDense handles (tensor: Tensor) =
        let isDouble = tensor.dtype = torch.ScalarType.Float64
        let dtype = if isDouble then handles.Double else handles.Float
        let flat = tensor.view -1L

        for start in 0L .. largestPiece .. flat.numel () - 1L do
            let length = min largestPiece (flat.numel () - start)
            addUp handles dtype (Tensors.address (flat.narrow (0L, start, length))) (int length)

    /// The sums over all ranks into a tensor of floats, through float32 where it is narrower; another is an
    /// ArgumentException.
    let sumInPlace (handles: Handles) (tensor: Tensor) : unit =
        use _inference = Scope.inference ()

        let dtype =
            match tensor.dtype with
            | torch.ScalarType.Float64 -> torch.ScalarType.Float64
            | torch.ScalarType.Float32
            | torch.ScalarType.Float16
            | torch.ScalarType.BFloat16 -> torch.ScalarType.Float32
            | other -> invalidArg (nameof tensor) $"ranks sum floats, not {other}"

        if tensor.dtype = dtype && tensor.device_type = DeviceType.CPU && tensor.is_contiguous () then
            sumDense handles tensor
        else
            let dense = tensor.``to``(dtype).cpu().contiguous()
            sumDense handles dense
            tensor.copy_ dense |> ignore

    /// Returns when every rank has called it.
    let barrier (handles: Handles) : unit = MPI_Barrier handles.World |> succeed "MPI_Barrier"
    /// Ends every rank with an exit code.
    let abort (handles: Handles) (code: int) : unit = MPI_Abort(handles.World, code) |> ignore
    /// Leaves MPI, which cannot be started again.
    let finish () : unit = MPI_Finalize() |> succeed "MPI_Finalize"
