/// What the tests of ranks run under mpirun: this assembly, with a word of its own as the first argument.
module LayerSkip.Tests.RankProgram

open System
open System.IO
open System.Runtime.InteropServices
open System.Threading
open TorchSharp
open LayerSkip

let word = "as-a-rank"

[<DllImport("libc", EntryPoint = "_exit")>]
extern void private endNow(int code)

let private randoms (seed: int) (count: int) =
    let random = Random seed
    Array.init count (fun _ -> random.NextDouble() * 2.0 - 1.0)

/// The tensors that a rank brings, by name: the whole of each, and the part of it that is summed.
let tensors (rank: int) : (string * Tensor * Tensor) list =
    let make name (shape: int64 list) (dtype: torch.ScalarType) (part: Tensor -> Tensor) =
        let count = int (List.fold (*) 1L shape)
        let whole = (Tensors.ofFloats (Array.ofList shape) (randoms (1 + rank) count)).``to`` dtype
        name, whole, part whole

    let f32, f64 = torch.ScalarType.Float32, torch.ScalarType.Float64

    [
        make "one number" [ 1L ] f32 id
        make "float32" [ 33L; 1001L ] f32 id
        make "float64" [ 7L; 301L ] f64 id
        make "nothing" [ 0L ] f32 id
        make "transposed" [ 5L; 9L ] f32 _.t()
        make "columns" [ 6L; 8L ] f64 _.narrow(1L, 2L, 3L)
        make "rows" [ 6L; 8L ] f32 _.narrow(0L, 2L, 3L)
        make "float16" [ 40L ] torch.ScalarType.Float16 id
        make "bfloat16" [ 40L ] torch.ScalarType.BFloat16 id
        make "weight" [ 11L ] f32 _.requires_grad_(true)
    ]

let numbers (rank: int) : float[] = randoms (100 + rank) 257

let line (name: string) (values: float[]) =
    let bits = values |> Array.map (BitConverter.DoubleToInt64Bits >> string)
    $"""{name}: {String.concat " " bits}"""

/// What sums come to on this rank, as lines of a name and bits.
let private sums (folder: string) (ranks: Ranks) =
    Backend.setThreads 1
    use _scope = torch.NewDisposeScope()
    let brought = tensors ranks.Rank
    let before = torch.Tensor.TotalCount
    ranks.SumInPlace [ for _, _, part in brought -> part ]
    let left = torch.Tensor.TotalCount - before

    let faultOf (call: unit -> unit) =
        try
            call ()
            "none"
        with :? InvalidOperationException as e ->
            e.Message

    let elsewhere () =
        let mutable fault = ""
        let thread = Thread(fun () -> fault <- faultOf ranks.Barrier)
        thread.Start()
        thread.Join()
        fault

    // .NET makes exceptions of these signals, which Open MPI listens to as well.
    let caught =
        try
            let text: string = Unchecked.defaultof<string>
            string text.Length
        with :? NullReferenceException ->
            "caught"

    let lines = [
        for name, whole, _ in brought do
            use detached = whole.detach ()
            line name (Tensors.toFloats detached)

        line "numbers" (ranks.Sum(numbers ranks.Rank))
        line "no numbers" (ranks.Sum [||])
        for rank, gathered in Seq.indexed (Ranks.gather (numbers ranks.Rank) ranks) do
            line $"numbers of {rank}" gathered

        line "any is last" [|
            (if Ranks.anyOf (ranks.Rank = ranks.Count - 1) ranks then
                 1.0
             else
                 0.0)
        |]
        line "any is none" [| (if Ranks.anyOf false ranks then 1.0 else 0.0) |]
        $"ranks: {ranks.Rank} of {ranks.Count}, here {ranks.Local}, gone {ranks.Gone()}"
        $"threads: {MpiRanks.threads ranks}"
        $"tensors left: {left}"
        $"null: {caught}"
        $"elsewhere: {elsewhere ()}"
    ]

    ranks.Barrier()
    ranks.Leave()
    let lines = lines @ [ $"after: {faultOf ranks.Barrier}" ]
    File.WriteAllLines(Path.Combine(folder, $"rank{ranks.Rank}"), lines)
    0

/// Sums until it is ended, and says what a program should on SIGTERM.
let private forever (folder: string) (ranks: Ranks) =
    let write name (text: string) = File.WriteAllText(Path.Combine(folder, $"{name}{ranks.Rank}"), text)

    use _handler =
        PosixSignalRegistration.Create(
            PosixSignal.SIGTERM,
            fun context ->
                context.Cancel <- true
                write "told" (string (ranks.Gone()))

                if Ranks.isFirstLeft ranks then
                    eprintfn $"rank {ranks.Rank} says: gone are {ranks.Gone()}"

                Thread.Sleep Ranks.lastWords
                endNow 143
        )

    ranks.Barrier()
    write "pid" (string Environment.ProcessId)

    while true do
        ranks.Sum [| 1.0 |] |> ignore

        // The others wait for this one inside Open MPI.
        if ranks.Rank = 0 then
            Thread.Sleep 20

    0

let run (arguments: string list) : int =
    match MpiRanks.tryJoin (), arguments with
    | Ok ranks, [ "sums"; folder ] -> sums folder ranks
    | Ok ranks, [ "forever"; folder ] -> forever folder ranks
    | Ok ranks, [ "abort"; code ] ->
        if ranks.Rank = 1 then
            ranks.Abort(int code)

        ranks.Barrier()
        0
    | Error errors, _ ->
        eprintfn $"{LayerSkipError.summary errors}"
        2
    | Ok _, _ ->
        eprintfn $"no such part: {arguments}"
        2
