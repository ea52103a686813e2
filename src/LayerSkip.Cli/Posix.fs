namespace LayerSkip.Cli

open System
open System.IO
open System.Runtime.InteropServices

/// What a path leads to, symbolic links followed.
[<RequireQualifiedAccess>]
type internal PathKind =
    | Nothing
    | RegularFile
    | Folder
    /// A device, a FIFO, a socket: something to write into, never to replace.
    | Special

/// What the system knows and .NET does not tell.
[<RequireQualifiedAccess>]
module internal Posix =
    [<DllImport("libc", EntryPoint = "_exit")>]
    extern void private exitNow(int code)

    [<DllImport("libc", SetLastError = true)>]
    extern int private statx(int folder, byte[] path, int flags, uint32 mask, byte[] result)

    [<DllImport("libc", SetLastError = true)>]
    extern nativeint private write(int descriptor, byte[] bytes, nativeint count)

    // As Linux numbers them.
    let private interrupted, wouldBlock = 4, 11

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

    /// Ends the process at once: nothing is flushed, no library's clean-up runs under a computation.
    let exit (code: int) : unit =
        if OperatingSystem.IsLinux() then
            exitNow code
        else
            Environment.Exit code

    // Of struct statx, the same on every architecture: the size, the place of the mode, and its bits of the type.
    let private size, modeAt, typeBits = 256, 28, 0xF000us

    let private modeOf (path: string) =
        let currentFolder, typeAndMode = -100, 3u
        let result = Array.zeroCreate<byte> size
        let name = Text.Encoding.UTF8.GetBytes(path + "\000")

        if statx (currentFolder, name, 0, typeAndMode, result) = 0 then
            Some(BitConverter.ToUInt16(result, modeAt))
        else
            None

    let kind (path: string) : PathKind =
        if Directory.Exists path then
            PathKind.Folder
        elif not (OperatingSystem.IsLinux()) then
            if File.Exists path then
                PathKind.RegularFile
            else
                PathKind.Nothing
        else
            match modeOf path with
            | None -> PathKind.Nothing
            | Some mode when mode &&& typeBits = 0x8000us -> PathKind.RegularFile
            | Some _ -> PathKind.Special

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
