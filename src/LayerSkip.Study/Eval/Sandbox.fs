namespace LayerSkip

open System
open System.Diagnostics
open System.IO
open System.Security.Cryptography
open System.Text
open System.Text.Json

/// What a generated program may use; whoever goes beyond fails.
type SandboxLimits = {
    /// Seconds of computing, and of time.
    CpuSeconds: int
    WallSeconds: float
    /// Of address space, of each file, and of the folder that it runs in; in MiB.
    MemoryMiB: int
    FileMiB: int
    FolderMiB: int
    /// Processes and threads.
    Processes: int
}

/// How a program ended.
[<RequireQualifiedAccess>]
type Verdict =
    /// It ran to its end, past all of its tests.
    | Passed
    /// An exception ended it: an assertion that does not hold, a limit, a syntax error.
    | Failed of why: string
    /// By a signal: SIGKILL from its limit of computing, SIGSEGV.
    | Killed of signal: string
    | TimedOut
    /// It left before its end, by os._exit.
    | EndedEarly

/// A Python that runs programs under limits, in what the system has to part them from the rest.
type Sandbox = private {
    python: string
    limits: SandboxLimits
    missing: string list
} with

    /// What the system does not have, in words; limits of rlimit hold without.
    member this.Missing = this.missing

/// Runs Python that a model wrote, with its tests: as the authors of HumanEval ask, never without being told to. Each program has
/// a process of its own, with no input, no environment and an empty folder, which is removed afterwards; what it prints is
/// dropped. Against accidents, and against code that is out for them, but for one that reads the interpreter's frames to
/// call itself passed.
[<RequireQualifiedAccess>]
module Sandbox =
    /// A test suite of HumanEval takes milliseconds; the reference allows 3 seconds of time.
    let defaults: SandboxLimits = {
        CpuSeconds = 5
        WallSeconds = 10.0
        MemoryMiB = 1024
        FileMiB = 1
        FolderMiB = 16
        Processes = 16
    }

    /// What stands before the program, in Python.
    let private prelude = lazy (Embedded.text "LayerSkip.sandbox.py")

    /// Verdicts are short; more is none.
    let private mostOutput = 1 <<< 16

    /// What a process that its own limits do not end is given more, in seconds.
    let private grace = 5.0

    let private request (limits: SandboxLimits) (nonce: string) (program: string) =
        JsonWrite.line (fun json ->
            json.WriteString("nonce", nonce)
            json.WriteString("program", program)
            json.WriteNumber("cpu_s", limits.CpuSeconds)
            json.WriteNumber("wall_s", limits.WallSeconds)
            json.WriteNumber("memory_mib", limits.MemoryMiB)
            json.WriteNumber("file_mib", limits.FileMiB)
            json.WriteNumber("folder_mib", limits.FolderMiB)
            json.WriteNumber("processes", limits.Processes))

    /// What the process writes, up to the most that it may.
    let private readSome (stream: Stream) : string =
        let buffer = Array.zeroCreate<byte> mostOutput
        Encoding.UTF8.GetString(buffer, 0, stream.ReadAtLeast(Span buffer, buffer.Length, false))

    /// The first line that has the nonce.
    let private verdictOf (nonce: string) (output: string) : JsonDocument option =
        output.Split '\n'
        |> Array.tryFind _.StartsWith(nonce)
        |> Option.bind (fun line ->
            Json.parse (Encoding.UTF8.GetBytes(line.Substring nonce.Length)) |> Result.toOption)

    /// Folders that the program closed to its user stay: they are empty of what anyone waits for.
    let private remove (folder: DirectoryInfo) =
        try
            folder.Delete true
        with
        | :? IOException
        | :? UnauthorizedAccessException -> ()

    /// What the prelude tells of a program; None where it tells nothing.
    let private tell (python: string) (limits: SandboxLimits) (program: string) : JsonDocument option =
        let nonce = RandomNumberGenerator.GetHexString 32
        let folder = Directory.CreateTempSubdirectory "layerskip-sandbox-"

        try
            let start = ProcessStartInfo(python, [ "-I"; "-S"; "-B"; "-c"; prelude.Value ])
            start.WorkingDirectory <- folder.FullName
            start.RedirectStandardInput <- true
            start.RedirectStandardOutput <- true
            start.RedirectStandardError <- true
            start.StandardInputEncoding <- UTF8Encoding false
            start.Environment.Clear()
            use running = Process.Start start
            let told = Threading.Tasks.Task.Run(fun () -> readSome running.StandardOutput.BaseStream)
            running.StandardError.Close()

            try
                running.StandardInput.Write(request limits nonce program)
                running.StandardInput.Close()
            with :? IOException ->
                // It ended before it read all.
                ()

            told.Wait(TimeSpan.FromSeconds(limits.WallSeconds + grace)) |> ignore
            running.Kill true
            verdictOf nonce told.Result
        finally
            remove folder

    let private verdict (told: JsonDocument option) : Verdict =
        match told with
        // Stopped, for it wrote to what only the prelude should.
        | None -> Verdict.EndedEarly
        | Some told ->
            let text (name: string) = told.RootElement.GetProperty(name).GetString()

            match text "verdict", text "why" with
            | "passed", _ -> Verdict.Passed
            | "timed out", _ -> Verdict.TimedOut
            | "killed", signal -> Verdict.Killed signal
            | "ended early", _ -> Verdict.EndedEarly
            | "broken", why -> invalidOp $"the sandbox could not be set up: {why}"
            | _, why -> Verdict.Failed why

    /// How a program ends.
    let run (sandbox: Sandbox) (program: string) : Verdict =
        use told = tell sandbox.python sandbox.limits program |> Option.toObj
        verdict (Option.ofObj told)

    // What programs of tests import; it must be readable to who runs them.
    let private probe = "import collections, heapq, math, random, re, string, typing"

    let private parts = [
        "namespaces", "namespaces of its own (processes, network, IPC)"
        "tmpfs", "a folder of limited size"
        "landlock", "Landlock (files elsewhere are guarded by their rights alone)"
    ]

    /// The Python that runs under a system's limits, of those named in a list of folders as PATH is one.
    let findIn (folders: string) (limits: SandboxLimits) : Result<Sandbox, LayerSkipError list> =
        let ofPython (python: string) =
            try
                use told = tell python limits probe |> Option.toObj

                match Option.ofObj told with
                | Some found when verdict (Some found) = Verdict.Passed ->
                    let has (name: string) = found.RootElement.GetProperty(name).GetBoolean()

                    Some {
                        python = python
                        limits = limits
                        missing = parts |> List.filter (fst >> has >> not) |> List.map snd
                    }
                | _ -> None
            with :? ComponentModel.Win32Exception ->
                None

        folders.Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)
        |> Seq.map (fun folder -> Path.GetFullPath(Path.Combine(folder, "python3")))
        |> Seq.filter File.Exists
        |> Seq.tryPick ofPython
        |> Option.map Ok
        |> Option.defaultWith (fun () ->
            Error [
                LayerSkipError.NotFound(
                    "python3",
                    "generated programs are run by one on the PATH that every user may read, on Linux or another Unix; install it"
                )
            ])

    /// The same of PATH.
    let find (limits: SandboxLimits) : Result<Sandbox, LayerSkipError list> =
        findIn (Environment.GetEnvironmentVariable "PATH" |> Option.ofObj |> Option.defaultValue "") limits

    /// A verdict as results have it: "passed", "failed: AssertionError: ".
    let name (verdict: Verdict) : string =
        match verdict with
        | Verdict.Passed -> "passed"
        | Verdict.Failed why -> $"failed: {why}"
        | Verdict.Killed signal -> $"killed: {signal}"
        | Verdict.TimedOut -> "timed out"
        | Verdict.EndedEarly -> "ended early"
