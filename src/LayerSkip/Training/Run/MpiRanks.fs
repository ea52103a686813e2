namespace LayerSkip

open System
open System.IO

/// The ranks of a run that mpirun starts, or this process alone.
[<RequireQualifiedAccess>]
module MpiRanks =
    let private variable = "LAYERSKIP_MPI"

    // The host's name alone may be another's, and its boot id another container's.
    let private machine () =
        let boot = "/proc/sys/kernel/random/boot_id"
        let name = Environment.MachineName + (if File.Exists boot then File.ReadAllText boot else "")
        let hash = name |> Text.Encoding.UTF8.GetBytes |> Security.Cryptography.SHA256.HashData
        // As many bits as a float64 can hold.
        float (BitConverter.ToUInt64(hash, 0) >>> 11)

    let private runs (pid: int) = not (Directory.Exists "/proc/self") || Directory.Exists $"/proc/{pid}"

    let private withNeighbours (ranks: Ranks) : Ranks =
        let processes = ranks |> Ranks.gather [| machine (); float Environment.ProcessId |]
        let isHere rank = processes[rank][0] = processes[ranks.Rank][0]
        let local = List.filter isHere [ 0 .. ranks.Count - 1 ]
        {
            ranks with
                Local = local
                Gone = fun () -> local |> List.filter (fun rank -> not (runs (int (processes[rank][1]))))
        }

    let private join (handles: Mpi.Handles) (expected: int) =
        let struct (rank, count) = Mpi.start handles
        let thread = Environment.CurrentManagedThreadId
        let mutable hasLeft = false

        let guarded (call: 'T -> 'U) (argument: 'T) : 'U =
            if Environment.CurrentManagedThreadId <> thread then
                invalidOp "only the thread that joined the ranks may call them"

            if hasLeft then
                invalidOp "this process has left the ranks"

            call argument

        let leave () =
            Mpi.finish ()
            hasLeft <- true

        if count = expected then
            Ok(
                withNeighbours {
                    Ranks.alone with
                        Rank = rank
                        Count = count
                        Sum = guarded (Mpi.sum handles)
                        SumInPlace = guarded (List.iter (Mpi.sumInPlace handles))
                        Barrier = guarded (fun () -> Mpi.barrier handles)
                        Leave = guarded leave
                        Abort = guarded (Mpi.abort handles)
                }
            )
        else
            leave ()
            Error
                $"OMPI_COMM_WORLD_SIZE says {expected} ranks, and Open MPI knows {count}; start the program with mpirun"

    let private load (named: string option) =
        let names = named |> Option.map List.singleton |> Option.defaultValue [ "libmpi.so.40"; "libmpi.so" ]

        let tryBind name =
            PatchedLibrary.tryLoadAsIs name |> Option.map (fun library -> name, Mpi.bind library)

        match List.tryPick tryBind names with
        | Some(_, Some handles) -> Ok handles
        | Some(name, None) ->
            Error
                $"{name} is not Open MPI's; install Open MPI (Debian: openmpi-bin), or name its libmpi in {variable}"
        | None ->
            Error
                $"""{String.concat " or " names} does not load; install Open MPI (Debian: openmpi-bin), or name its libmpi in {variable}"""

    /// `tryJoin` in an environment.
    let internal joinIn (environment: string -> string option) : Result<Ranks, LayerSkipError list> =
        let number name = environment name |> Option.bind Number.tryWhole

        let joined =
            match number "OMPI_COMM_WORLD_SIZE", number "PMI_SIZE" with
            | Some count, _ when count > 1 ->
                load (environment variable) |> Result.bind (fun handles -> join handles count)
            | None, Some count when count > 1 ->
                Error
                    $"another MPI started these {count} ranks (PMI_SIZE is set); start them with Open MPI's mpirun"
            | _ -> Ok Ranks.alone

        joined |> Result.mapError (fun why -> [ LayerSkipError.NoRanks why ])

    // Once a process: MPI cannot start twice.
    let private joined =
        lazy
            (joinIn (fun name ->
                match Environment.GetEnvironmentVariable name with
                | null
                | "" -> None
                | text -> Some text))

    /// The ranks that Open MPI's mpirun has started this process with; `alone` without it.
    let tryJoin () : Result<Ranks, LayerSkipError list> = joined.Value

    /// The processors of a list of the kernel's: "0-3,8".
    let internal processors (list: string) : int list = [
        for range in list.Split(',', StringSplitOptions.TrimEntries ||| StringSplitOptions.RemoveEmptyEntries) do
            match range.Split '-' |> Array.map int with
            | [| first; last |] -> yield! [ first..last ]
            | numbers -> yield! numbers
    ]

    /// Threads for a rank that may use some processors, each shared with others.
    let internal share (usable: int) (own: int list) (users: int -> float) : int =
        let parts = own |> List.sumBy (fun processor -> 1.0 / max 1.0 (users processor))
        max 1 (int (float usable * parts / float (max 1 own.Length) + 1e-6))

    let private allowed () =
        let field, status = "Cpus_allowed_list:", "/proc/self/status"

        if File.Exists status then
            File.ReadLines status
        else
            Seq.empty
        |> Seq.tryFind _.StartsWith(field)
        |> Option.map (fun line -> processors (line.Substring field.Length))
        |> Option.defaultValue [ 0 .. Environment.ProcessorCount - 1 ]

    /// The threads that leave each rank its share of this machine's processors, as mpirun has dealt them out. Every rank
    /// asks at the same time.
    let threads (ranks: Ranks) : int =
        let own = allowed ()
        let widest = Ranks.gather [| float (1 + List.fold max 0 own) |] ranks |> Array.concat |> Array.max
        let mark processor = if List.contains processor own then 1.0 else 0.0
        let all = Ranks.gather (Array.init (int widest) mark) ranks
        share Environment.ProcessorCount own (fun processor ->
            ranks.Local |> List.sumBy (fun rank -> all[rank][processor]))
        |> min Backend.mostThreads
