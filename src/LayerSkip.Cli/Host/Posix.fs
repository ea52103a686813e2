namespace LayerSkip.Cli

open System
open System.IO
open System.Runtime.InteropServices

/// What the system knows and .NET does not tell. On other systems than Linux these do what .NET does, or nothing.
[<RequireQualifiedAccess>]
module internal Posix =
    [<DllImport("libc", EntryPoint = "_exit")>]
    extern void private exitNow(int code)

    [<DllImport("libc")>]
    extern nativeint private signal(int number, nativeint handler)

    [<DllImport("libc", SetLastError = true)>]
    extern nativeint private write(int descriptor, byte[] bytes, nativeint count)

    [<DllImport("libc")>]
    extern int private ioctl(int descriptor, unativeint request, uint16[] answer)

    // As Linux numbers them.
    let private windowSize = 0x5413un
    let private interrupted, wouldBlock = 4, 11
    let private fileTooLarge, ignored = 25, 1n

    /// A write beyond `ulimit -f` shall be refused, as one to a full disk is, and not end the process.
    let ignoreFileLimit () : unit =
        if OperatingSystem.IsLinux() then
            signal (fileTooLarge, ignored) |> ignore

    /// Writes all bytes to a descriptor, wherever its place is now; an IOException has the system's error as HResult.
    let rec writeAll (descriptor: int) (bytes: byte[]) : unit =
        if bytes.Length > 0 then
            let written = int (write (descriptor, bytes, nativeint bytes.Length))

            if written >= 0 then
                writeAll descriptor bytes[written..]
            else
                match Marshal.GetLastPInvokeError() with
                | error when error = interrupted -> ()
                | error when error = wouldBlock -> Threading.Thread.Sleep 1
                | error -> raise (IOException(Marshal.GetPInvokeErrorMessage error, error))

                writeAll descriptor bytes

    /// The columns of the terminal that standard output is, where it is one that tells. .NET would set the terminal up for that.
    let columns () : int option =
        let answer = Array.zeroCreate<uint16> 4

        if OperatingSystem.IsLinux() && ioctl (1, windowSize, answer) = 0 && answer[1] > 0us then
            Some(int answer[1])
        else
            None

    /// Ends the process at once: nothing is flushed, no library's clean-up runs under a computation.
    let exit (code: int) : unit =
        if OperatingSystem.IsLinux() then
            exitNow code
        else
            Environment.Exit code

    /// Whether whoever started the process gave it this descriptor to write to. Where not, it is closed, or the run-time
    /// has opened something of its own under the number, which is marked to close when a program starts.
    let isWritable (descriptor: int) : bool =
        let flagsOf (line: string) = Convert.ToInt64(line.Substring(6).Trim(), 8)
        let access, writeOnly, readWrite, closeOnStart = 3L, 1L, 2L, 0x80000L

        try
            let flags =
                File.ReadLines $"/proc/self/fdinfo/{descriptor}"
                |> Seq.find _.StartsWith("flags:")
                |> flagsOf

            (flags &&& access = writeOnly || flags &&& access = readWrite)
            && flags &&& closeOnStart = 0L
        with
        | :? FileNotFoundException -> not (Directory.Exists "/proc/self/fdinfo")
        // No /proc: nothing speaks against it.
        | :? DirectoryNotFoundException
        | :? UnauthorizedAccessException -> true
