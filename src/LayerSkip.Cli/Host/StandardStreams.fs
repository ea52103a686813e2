namespace LayerSkip.Cli

open System
open System.IO

/// Something failed that no other input would have put right; the message says what.
type FailureException(message: string) =
    inherit Exception(message)

/// A stream of writes that after a first fault takes everything and writes nothing; `explain` says what that fault throws.
[<Sealed>]
type internal ForgivingStream(write: byte[] -> unit, explain: exn -> exn option) =
    inherit Stream()
    let mutable failed = false

    override _.CanRead = false
    override _.CanSeek = false
    override _.CanWrite = true
    override _.Length = raise (NotSupportedException())

    override _.Position
        with get () = raise (NotSupportedException())
        and set _ = raise (NotSupportedException())

    override _.Read(_: byte[], _: int, _: int) : int = raise (NotSupportedException())
    override _.Seek(_, _) = raise (NotSupportedException())
    override _.SetLength _ = raise (NotSupportedException())
    override _.Flush() = ()

    override _.Write(buffer: byte[], offset: int, count: int) =
        if not failed then
            try
                write (Array.sub buffer offset count)
            with :? IOException as e ->
                failed <- true
                explain e |> Option.iter raise

/// Standard output and standard error, as the process got them.
[<RequireQualifiedAccess>]
module internal StandardStreams =
    // What the system answers to a write into a pipe that nobody reads.
    let private brokenPipe = 32

    /// Whether nobody reads any more what is written: no fault of ours, as in `layerskip generate | head`.
    let isBrokenPipe (e: exn) =
        match e with
        | :? IOException as e -> e.HResult = brokenPipe
        | _ -> false

    // Not Console's streams: they write the terminal's set-up first, and drop what a closed pipe refuses.
    let private writer descriptor (console: unit -> Stream) : byte[] -> unit =
        if OperatingSystem.IsLinux() then
            Posix.writeAll descriptor
        else
            let stream = console ()
            fun bytes -> stream.Write(bytes, 0, bytes.Length)

    /// None where it is closed. A fault throws once: work for nobody should end, and say so.
    let output () : Stream option =
        let explain (e: exn) =
            if isBrokenPipe e then
                Some e
            else
                let why = e.Message.TrimEnd '.'
                Some(FailureException $"standard output cannot be written: {why}; send it elsewhere" :> exn)

        if Posix.isWritable 1 then
            Some(new ForgivingStream(writer 1 Console.OpenStandardOutput, explain))
        else
            None

    /// Nothing is lost that anybody could read: remarks that cannot be written do not stop the work.
    let error () : Stream =
        if Posix.isWritable 2 then
            new ForgivingStream(writer 2 Console.OpenStandardError, (fun _ -> None))
        else
            Stream.Null
