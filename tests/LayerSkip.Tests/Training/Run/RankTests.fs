module LayerSkip.Tests.RankTests

open System
open System.Diagnostics
open System.IO
open System.Reflection
open System.Threading
open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Tests.FileSupport

Backend.ensure ()

/// Whether there is an mpirun, and Open MPI's.
let private isInstalled =
    lazy
        (try
            use running =
                Process.Start(ProcessStartInfo("mpirun", [ "--version" ], RedirectStandardOutput = true))

            running.StandardOutput.ReadToEnd().Contains "Open MPI"
         with :? ComponentModel.Win32Exception ->
             false)

/// Starts RankProgram on some ranks.
let private start (count: int) (arguments: string list) : Process =
    if not isInstalled.Value then
        skiptest "there is no mpirun of Open MPI"

    let parameters = [
        "mpi_yield_when_idle", "1"
        // From a rank's end to SIGTERM, and on to SIGKILL, in seconds.
        "odls_base_sigkill_timeout", "2"
    ]

    let options = [
        yield! [ "--oversubscribe"; "--bind-to"; "none" ]
        for name, value in parameters do
            yield! [ "--mca"; name; value ]
    ]

    let program = [ "dotnet"; "exec"; Assembly.GetExecutingAssembly().Location; RankProgram.word ]

    let start = ProcessStartInfo("mpirun", options @ [ "-n"; string count ] @ program @ arguments)

    start.RedirectStandardInput <- true
    start.RedirectStandardOutput <- true
    start.RedirectStandardError <- true
    // It refuses root otherwise, which is who containers run as.
    start.Environment["OMPI_ALLOW_RUN_AS_ROOT"] <- "1"
    start.Environment["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] <- "1"
    let running = Process.Start start
    running.StandardInput.Close()
    running

/// The exit code, and what was said on standard error.
let private finish (running: Process) : int * string =
    let out = running.StandardOutput.ReadToEndAsync()
    let error = running.StandardError.ReadToEndAsync()

    if not (running.WaitForExit(TimeSpan.FromMinutes 2.0)) then
        running.Kill true
        failtest "the ranks do not end"

    out.Wait()
    running.ExitCode, error.Result

/// What each rank wrote, by name.
let private sums (count: int) : Map<string, string>[] =
    withFolder (fun folder ->
        use running = start count [ "sums"; folder ]
        let code, error = finish running
        Expect.equal code 0 error

        Array.init count (fun rank ->
            Map [
                for line in File.ReadLines(Path.Combine(folder, $"rank{rank}")) do
                    let at = line.IndexOf ':'
                    line.Substring(0, at), line.Substring(at + 1).Trim()
            ]))

let private floats (bits: string) =
    bits.Split(' ', StringSplitOptions.RemoveEmptyEntries)
    |> Array.map (int64 >> BitConverter.Int64BitsToDouble)

/// What the ranks' tensors come to by libtorch's own additions, in order: what is outside the part stays rank 0's.
let private added (count: int) : (string * torch.ScalarType * float[]) list =
    use _scope = torch.NewDisposeScope()
    use _noGrad = torch.no_grad ()
    let others = [ for rank in 1 .. count - 1 -> RankProgram.tensors rank ]

    [
        for index, (name, whole, part) in List.indexed (RankProgram.tensors 0) do
            for tensors in others do
                let _, _, other = tensors[index]
                Scalars.addInPlace other part |> ignore

            name, whole.dtype, Tensors.toFloats whole
    ]

let private tolerance (dtype: torch.ScalarType) =
    match dtype with
    | torch.ScalarType.Float64 -> 1e-14
    | torch.ScalarType.Float32 -> 1e-6
    | torch.ScalarType.Float16 -> 4e-3
    | _ -> 4e-2

let private isPart name = name = "columns" || name = "rows"

let private everyRank (count: int) (wrote: Map<string, string>[]) =
    for rank, lines in Array.indexed wrote do
        let ranks = [ 0 .. count - 1 ]
        Expect.equal lines["ranks"] $"{rank} of {count}, here {ranks}, gone {List.empty<int>}" "who is there"
        Expect.equal lines["any is last"] (string (BitConverter.DoubleToInt64Bits 1.0)) "one suffices"
        Expect.equal lines["any is none"] "0" "none does not"
        Expect.equal lines["tensors left"] "0" "no tensor stays"
        Expect.equal lines["null"] "caught" "signals are .NET's"
        Expect.stringContains lines["elsewhere"] "only the thread that joined" "another thread"
        Expect.stringContains lines["after"] "has left" "after Leave"
        Expect.equal lines["no numbers"] "" "nothing"

        for other in ranks do
            Expect.equal (floats (lines[$"numbers of {other}"])) (RankProgram.numbers other) "gathered"

    for name in wrote[0].Keys do
        if name <> "ranks" && not (isPart name) then
            Expect.allEqual
                (wrote |> Array.map (Map.find name))
                (wrote[0][name])
                $"{name}: the same bits on all"

/// Kills a rank of some, or mpirun; what the others then wrote, and mpirun's code and words.
let private afterKilling (count: int) (signal: string) (victim: int option) =
    withFolder (fun folder ->
        use running = start count [ "forever"; folder ]
        let file name rank = Path.Combine(folder, $"{name}{rank}")
        let isWritten name rank = File.Exists(file name rank) && FileInfo(file name rank).Length > 0L
        let deadline = DateTime.UtcNow.AddMinutes 2.0

        while not (List.forall (isWritten "pid") [ 0 .. count - 1 ]) && DateTime.UtcNow < deadline do
            Thread.Sleep 50

        let pid =
            match victim with
            | Some rank -> File.ReadAllText(file "pid" rank)
            | None -> string running.Id

        use kill = Process.Start("kill", [ signal; pid ])
        kill.WaitForExit()
        let code, error = finish running
        let said = error.Split '\n' |> Array.filter _.Contains(" says: ") |> List.ofArray
        let told = [ 0 .. count - 1 ] |> List.filter (isWritten "told")
        code, told, said |> List.map _.Trim())

let private inEnvironment (variables: (string * string) list) =
    let variables = Map variables
    MpiRanks.joinIn variables.TryFind

let private faultIn variables =
    match inEnvironment variables with
    | Ok ranks -> failtest $"joined as {ranks.Rank} of {ranks.Count}"
    | Error errors -> LayerSkipError.summary errors

[<Tests>]
let tests =
    testSequenced
    <| testList "ranks" [
        testProperty "alone, a sum is what it was" (fun (values: float[]) ->
            let bits = Array.map BitConverter.DoubleToInt64Bits
            let alone = Ranks.alone
            use tensor = Tensors.ofFloats [| int64 values.Length |] values
            alone.SumInPlace [ tensor ]

            bits (alone.Sum values) = bits values
            && bits (Tensors.toFloats tensor) = bits values
            && (Ranks.gather values alone |> Array.map bits) = [| bits values |])

        testCase "alone, one rank has every processor and hears itself" (fun () ->
            let alone = Ranks.alone
            alone.Barrier()
            Expect.isTrue (Ranks.anyOf true alone && not (Ranks.anyOf false alone)) "any"
            Expect.isTrue (Ranks.isFirstLeft alone) "first"
            Expect.equal (MpiRanks.threads alone) Environment.ProcessorCount "threads"
            alone.Leave())

        testCase "without mpirun, or with it and one rank, a process is alone" (fun () ->
            for variables in [ []; [ "OMPI_COMM_WORLD_SIZE", "1"; "PMI_SIZE", "1" ]; [ "PMI_SIZE", "1" ] ] do
                let ranks = inEnvironment variables |> Check.getOrRaise
                Expect.equal (ranks.Rank, ranks.Count) (0, 1) "alone")

        testCase
            "a libmpi that is not there, or not Open MPI's, is one line that says what to install"
            (fun () ->
                for library in [ "/nowhere/libmpi.so"; "libc.so.6" ] do
                    let fault = faultIn [ "OMPI_COMM_WORLD_SIZE", "2"; "LAYERSKIP_MPI", library ]
                    Expect.stringContains fault library "which"
                    Expect.stringContains fault "openmpi-bin" "what to install"
                    Expect.isFalse (fault.Contains '\n') "one line")

        testCase "ranks of another MPI are told that Open MPI is needed" (fun () ->
            Expect.stringContains (faultIn [ "PMI_SIZE", "4" ]) "Open MPI's mpirun" "4 ranks")

        testProperty
            "of the ranks of a machine that still run, one speaks"
            (fun (local: Set<byte>) (gone: Set<byte>) ->
                let ranks = local |> Set.toList |> List.map int
                let ended = Set.intersect local gone |> Set.toList |> List.map int

                let speakers =
                    List.except ended ranks
                    |> List.filter (fun rank ->
                        Ranks.isFirstLeft {
                            Ranks.alone with
                                Rank = rank
                                Local = ranks
                                Gone = fun () -> ended
                        })

                speakers.Length = min 1 (ranks.Length - ended.Length))

        testCase "threads are a rank's share of the processors that it may use" (fun () ->
            Expect.equal (MpiRanks.processors " 0-3,8\n") [ 0; 1; 2; 3; 8 ] "the kernel's list"
            let all = [ 0..15 ]
            Expect.equal (MpiRanks.share 16 all (fun _ -> 2.0)) 8 "two ranks, bound to nothing"
            Expect.equal (MpiRanks.share 8 [ 0..7 ] (fun _ -> 1.0)) 8 "bound to 8 of its own"
            Expect.equal (MpiRanks.share 1 [ 3 ] (fun _ -> 1.0)) 1 "bound to one"
            Expect.equal (MpiRanks.share 8 [ 8..15 ] (fun _ -> 2.0)) 4 "two ranks in each half"
            Expect.equal (MpiRanks.share 4 all (fun _ -> 2.0)) 2 "a container's quota of 4"
            Expect.equal (MpiRanks.share 2 [ 0; 1 ] (fun _ -> 5.0)) 1 "never none")

        testCase "2 ranks: sums are those of one addition, bit for bit, and the same on both" (fun () ->
            let wrote = sums 2
            everyRank 2 wrote

            for name, _, expected in added 2 do
                Expect.equal (floats (wrote[0][name])) expected name

            let expected = Array.map2 (+) (RankProgram.numbers 0) (RankProgram.numbers 1)
            Expect.equal (floats (wrote[0]["numbers"])) expected "numbers"
            let threads = max 1 (Environment.ProcessorCount / 2)
            Expect.equal (wrote[0]["threads"]) (string threads) "bound to nothing, each has half")

        testCase "3 ranks: sums are right, and the same bits on all" (fun () ->
            let wrote = sums 3
            everyRank 3 wrote

            for name, dtype, expected in added 3 do
                let found = floats (wrote[0][name])
                Expect.equal found.Length expected.Length name

                for a, b in Array.zip found expected do
                    Expect.isLessThanOrEqual (abs (a - b)) (3.0 * tolerance dtype) name)

        for count, victim in [ 2, 1; 2, 0; 3, 1 ] do
            testCase
                $"of {count} ranks, rank {victim} is killed: the run ends, and one of the others says so"
                (fun () ->
                    let code, told, said = afterKilling count "-KILL" (Some victim)
                    let left = List.except [ victim ] [ 0 .. count - 1 ]
                    Expect.notEqual code 0 "a failure"
                    Expect.equal told left "the others, from inside of a sum"
                    Expect.equal said [ $"rank {left.Head} says: gone are {[ victim ]}" ] "one line")

        testCase "mpirun is told to end: so are its ranks, and none is gone" (fun () ->
            let code, told, said = afterKilling 2 "-TERM" None
            Expect.notEqual code 0 "a failure"
            Expect.equal told [ 0; 1 ] "both"
            Expect.equal said [ $"rank 0 says: gone are {List.empty<int>}" ] "one line")

        testCase "a rank that aborts ends the ranks that wait for it, with its code" (fun () ->
            use running = start 2 [ "abort"; "7" ]
            let code, error = finish running
            Expect.equal code 7 error)
    ]
