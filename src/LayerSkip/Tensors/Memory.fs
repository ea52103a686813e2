namespace LayerSkip

open System
open System.IO
open System.Runtime.InteropServices

/// What is asked before much memory is taken: Linux grants it all, and ends the process when it is used.
[<RequireQualifiedAccess>]
module internal Memory =
    /// Less is always asked for outright.
    let private much = 1L <<< 28

    /// The numbers of a file of "name value" or "name: value kB" lines.
    let private numbers (path: string) : Map<string, int64> =
        Map [
            for line in File.ReadLines path do
                match line.Split([| ' '; ':'; '\t' |], StringSplitOptions.RemoveEmptyEntries) with
                | [| name; value; "kB" |] -> name, 1024L * int64 value
                | [| name; value |] when Int64.TryParse value |> fst -> name, int64 value
                | _ -> ()
        ]

    let private ofSystem () =
        let memory = numbers "/proc/meminfo"
        memory["MemAvailable"] + memory["SwapFree"]

    /// A container's limit, less what its processes hold; files that were read make room when asked to.
    let private ofContainer () =
        match Int64.TryParse(File.ReadAllText "/sys/fs/cgroup/memory.max") with
        | true, limit -> limit - (numbers "/sys/fs/cgroup/memory.stat")["anon"]
        | _ -> Int64.MaxValue

    /// Whether an exception, .NET's or libtorch's, says that memory could not be had.
    let isShort (e: exn) : bool =
        e :? OutOfMemoryException
        || [ "can't allocate memory"; "out of memory" ] |> List.exists e.Message.Contains

    /// What to do where `isShort`.
    let shortage =
        "not enough memory; end other programs, or ask for less: a smaller batch, a shorter text, a narrower dtype, a smaller model"

    let private orUnknown (read: unit -> int64) =
        try
            read ()
        with
        | :? IOException
        | :? UnauthorizedAccessException
        | :? Collections.Generic.KeyNotFoundException
        | :? FormatException -> Int64.MaxValue

    /// Bytes that can be had without taking them from others; the largest number where nobody says.
    let free () : int64 =
        if RuntimeInformation.IsOSPlatform OSPlatform.Linux then
            min (orUnknown ofSystem) (orUnknown ofContainer)
        else
            Int64.MaxValue

    /// The fault of taking `bytes` for a thing, where they are not there. `what` it is costs time to say: start-up's.
    let faults (what: unit -> string) (bytes: int64) : LayerSkipError list =
        if bytes < much then
            []
        else
            match free () with
            | free when bytes <= free -> []
            | free -> [ LayerSkipError.NotEnoughMemory(what (), bytes, free) ]
